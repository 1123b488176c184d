// Keeps the live part of a page fresh.
"use strict";

async function refresh(place) {
  try {
    const answer = await fetch(place.dataset.live);
    if (answer.redirected) { location.reload(); return; }
    const text = await answer.text();
    if (answer.ok && text !== place.dataset.seen) { place.dataset.seen = text; place.innerHTML = text; }
  } catch { /* the dashboard was stopped: what is shown stays */ }
}

document.querySelectorAll("[data-live]").forEach((place) => setInterval(() => refresh(place), 2000));
