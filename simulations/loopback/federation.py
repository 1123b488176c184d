"""A coordinator and its hospitals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from privacy.secure_sum import SharedNoise
from simulations.loopback.coordinator import Coordinator, RunHandle
from simulations.loopback.hospital import LiveHospital
from simulations.loopback.link import Link

TINY = (
    "data.image_size=32",
    "data.text_tokens=16",
    "model.image_width=8",
    "model.fusion.width=16",
    "training.batch_size=8",
    "training.local_epochs=1.0",
    "training.augment=false",
    "privacy.delta=1e-3",
    "federation.rounds=2",
    "federation.round_timeout=240.0",
)


class Federation:
    """Hospitals on the loopback address, and the coordinator that admits them."""

    def __init__(
        self,
        home: Path,
        hospitals: Path,
        patients: Mapping[str, str],
        guests: Sequence[Path] = (),
        *,
        links: bool = True,
        site: Mapping[str, Any] | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            home: folder of everything.
            hospitals: generated data set of all hospitals.
            patients: name of each hospital -> the site in `hospitals` whose patients it has.
            guests: requests of other sites that are admitted too.
            links: each site reaches the coordinator by way of a `Link` that can be broken.
            site: keys of each site.toml that differ from `Hospital.site`.
            rules: rules of each policy that differ from `LiveHospital`'s, ``section__key`` or ``key``.
        """
        self.home, self._links = home, links
        self.sites = [
            LiveHospital(home, name, hospitals, whose, site or {}, rules or {})
            for name, whose in patients.items()
        ]
        self.coordinator = Coordinator(home, [*(site.request for site in self.sites), *guests])

    def introduce(self, asked: SharedNoise) -> None:
        """Let each policy name all sites, so that a run may share its noise; two officers sign, since that is wider."""
        keys = {site.name: site.peer_key() for site in self.sites}
        for site in self.sites:
            site.folder.sign(by_two=True, peers={**asdict(asked), "keys": keys})

    def start(self) -> None:
        """Start the coordinator, and every site with its kit; wait until all are ready."""
        self.coordinator.start()
        for site in self.sites:
            if self._links:
                site.link = Link(self.coordinator.port)
            site.start(self.coordinator.kit(site.name), wait=False)
        for site in self.sites:
            site.wait_until_ready()

    def end(self) -> None:
        """End the sites, the coordinator and the links."""
        for site in self.sites:
            site.end()
        self.coordinator.end()
        for site in self.sites:
            if site.link is not None:
                site.link.close()

    def begin(self, *changes: str) -> RunHandle:
        """Start a run of a tiny model with these settings changed, each as ``key=value``."""
        settings = [part for change in (*TINY, *changes) for part in ("--set", change)]
        return RunHandle(self.coordinator, self.coordinator("run", *settings).strip())
