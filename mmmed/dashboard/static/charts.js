// Draws charts from the figures that the server gives.
"use strict";

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["ink", "soft", "rule", "paper"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}

async function draw(place) {
  const answer = await fetch(place.dataset.figure);
  if (!answer.ok) { place.textContent = "The figure could not be loaded."; return; }
  const figure = await answer.json();
  const { ink, rule } = colours();
  const axis = { gridcolor: rule, linecolor: rule, zerolinecolor: rule };
  const layout = {
    ...figure.layout, font: { color: ink, family: "system-ui, sans-serif" }, paper_bgcolor: "transparent",
    plot_bgcolor: "transparent", margin: { l: 60, r: 20, t: 10, b: 50 }, height: 340, legend: { orientation: "h", y: -0.25 },
    xaxis: { ...axis, ...figure.layout.xaxis }, yaxis: { ...axis, ...figure.layout.yaxis },
  };
  await Plotly.react(place, figure.data, layout, { displaylogo: false, responsive: true, displayModeBar: false });
}

function drawAll() { document.querySelectorAll("[data-figure]").forEach(draw); }

drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
