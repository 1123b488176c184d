"""``mmmed privacy policy ...``: how a privacy officer writes, signs and checks a site's policy."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privacy.errors import PolicyError, PolicyRefusal, SigningKeyError

if TYPE_CHECKING:  # the ledger brings SciPy along: a quick --help does without
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privacy.ledger import Ledger
    from privacy.policy import SignedPolicy, SitePolicy
    from privacy.secure_sum import PeerRules

app = typer.Typer(help="What a site allows: write, sign and check it.", no_args_is_help=True)

_YEAR = datetime.timedelta(days=365)

Policy = Annotated[
    Path, typer.Argument(help="The policy file, or the site's folder that holds it.", show_default="here")
]
_HERE = Path()


@app.command("key")
def make_key(
    path: Annotated[Path, typer.Argument(help="Private key to make; its public key gets the ending .pub.")],
) -> None:
    """Make an officer's pair of keys. The private one stays with the officer; the site gets the public one."""
    from privacy.keys import create_key, public_pem

    public = path.with_suffix(".pub")
    if public.exists() or public == path:
        raise SigningKeyError(
            f"{public}: is there already, or is the private key's own name. Choose another."
        )
    passphrase = typer.prompt("Passphrase (empty for none)", default="", hide_input=True, show_default=False)
    if passphrase and passphrase != typer.prompt("Once more", hide_input=True):
        raise SigningKeyError("The two passphrases differ: nothing was written.")
    try:
        key = create_key(path, passphrase)
    except FileExistsError:
        raise SigningKeyError(f"{path}: is there already; a key is never overwritten.") from None
    public.write_text(public_pem(key.public_key()), encoding="ascii")
    print(f"{path}: private key, for its owner alone\n{public}: public key, for the site's folder")


@app.command()
def init(
    path: Annotated[
        Path | None, typer.Argument(help="Policy file to write.", show_default="the site's, here")
    ] = None,
    site: Annotated[str, typer.Option(help="The site's name, as in its site.toml.")] = "north",
) -> None:
    """Write a policy with every rule and what it means, to be edited and signed."""
    from client.site_folder import SiteFolder
    from privacy.policy import SitePolicy

    path = path or SiteFolder(_HERE).policy_file
    template = resources.files("privacy.policy").joinpath("template.toml").read_text(encoding="utf-8")
    expires = datetime.datetime.now(datetime.UTC).date() + _YEAR
    text = template.replace("{site}", site).replace("{expires}", expires.isoformat())
    SitePolicy.parse(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise PolicyError(f"{path}: is there already. Edit it, or name another file.") from None
    print(f"{path}: read every line, change what must change, then sign it")


@app.command()
def sign(
    key: Annotated[Path, typer.Option(help="The privacy officer's private key.")],
    path: Policy = _HERE,
    second: Annotated[
        Path | None, typer.Option(help="A second officer's private key, for a policy that widens a rule.")
    ] = None,
) -> None:
    """Sign a policy; from then on any edit of it is refused."""
    from privacy.policy import sign_policy

    path = _file(path)
    signature = sign_policy(path, _private(key), _private(second) if second else None)
    print(
        f"{signature}: signed; put both files into the site's folder, then `mmmed privacy policy check` there"
    )


@app.command()
def peer(
    folder: Annotated[Path, typer.Argument(help="The site's folder, with its signed policy.")] = _HERE,
) -> None:
    """Print the line by which the other sites' policies name this one under peers.keys.

    It holds the public key with which the site signs its statements; the ledger and its key are made if need be.
    """
    from client.site_folder import SiteFolder

    site = SiteFolder(folder)
    with site.ledger(site.policy()) as ledger:
        print(f'{site.config.name} = "{ledger.signer}"')


@app.command()
def show(path: Policy = _HERE) -> None:
    """Say in words what a policy allows, signed or not."""
    from privacy.policy import SitePolicy

    path = _file(path)
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    print("\n".join(_words(SitePolicy.parse(text))))
    print(_digest(text))


@app.command()
def check(
    path: Policy = _HERE,
    officer: Annotated[
        Path | None, typer.Option(help="The officer's public key.", show_default="the site's")
    ] = None,
    second: Annotated[
        Path | None,
        typer.Option(help="The second officer's public key.", show_default="the site's"),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="The site's state folder.", show_default="what its site.toml says")
    ] = None,
) -> None:
    """Say whether the site would act under this policy: signatures, expiry, and what it widens. Exit 1 if not.

    Warns of a delta that is too large for the site's patients, and of a number of patients that it no longer has.
    """
    from client.site_folder import SiteFolder, StateFolder

    path = _file(path)
    folder = SiteFolder(path.parent)
    signed = folder.policy(path, officer, second)
    print("\n".join(_words(signed.policy)))
    print(_digest(signed.text))
    print("signed by the privacy officer" + (" and a second officer" if signed.countersigned else ""))
    kept = StateFolder(state) if state else folder.state
    with kept.inspect() if kept.holds_ledger() else nullcontext() as ledger:  # none before its first run
        problems = _problems(signed, ledger)
        most = ledger.most_patients if ledger else 0  # not to be printed
    stated = signed.policy.patients or 0
    if 0 < most < stated:
        print(
            f"warning: run.patients is {stated}, more than the site has. Epsilon holds all the same, since nothing in "
            "a run follows from how many there are; but the noise counts for more. Sign a policy with a smaller number."
        )
    for rule, delta in signed.policy.large_deltas(max(signed.policy.min_patients, stated, most)).items():
        print(
            f"warning: {rule} is {delta:g}, too large for this site's patients: a tenth of 1 / patients, or less, is "
            "usual. A delta of 1 / patients would permit publishing one patient's record outright: where run.delta "
            "reaches it, every run is refused."
        )
    for problem in problems:
        print(f"NOT in force: {problem}")
    if problems:
        raise typer.Exit(1)
    print("in force: the site acts under it")


def _problems(signed: SignedPolicy, ledger: Ledger | None) -> list[str]:
    from privacy.policy import check_successor

    found = []
    now = datetime.datetime.now(datetime.UTC)
    if ledger is not None:  # as the site judges it
        now = datetime.datetime.fromtimestamp(ledger.clock().latest, datetime.UTC)
    if signed.policy.expires < now.date():
        found.append(f"it ended on {signed.policy.expires}; today is {now.date()}, as far as this site knows")
    if ledger is not None:
        try:
            check_successor(ledger, signed)
        except PolicyRefusal as refusal:
            found.append(str(refusal))
    return found


def _digest(text: str) -> str:
    from privacy.ledger import policy_digest

    return f"SHA-256 {policy_digest(text)}: what the site's statements call it"


def _words(policy: SitePolicy) -> list[str]:
    """The policy for somebody who does not read TOML."""

    def names(values: object) -> str:
        return ", ".join(sorted(values)) or "none"  # type: ignore[call-overload]

    limit, period, run = policy.limit, policy.period, policy.run
    shares = (f"{name} {most:g}" for name, most in sorted(policy.purposes.items()))
    metrics = (f"{name} {rule}" for name, rule in sorted(policy.metrics.items()))
    return [
        f"site {policy.site}, until {policy.expires}; unit {policy.unit}, adjacency {policy.adjacency}",
        f"each patient, for ever: epsilon {limit.epsilon:g} at delta {limit.delta:g}",
        f"each patient, in {policy.period_days:g} days: epsilon {period.epsilon:g} at delta {period.delta:g}",
        f"by purpose: epsilon {', '.join(shares) or 'none'}",
        f"each run: epsilon {run.epsilon:g} at delta {run.delta:g}, noise multiplier "
        f"{policy.min_noise_multiplier:g} or more, {policy.min_patients} patients or more"
        f"{'' if policy.patients is None else ' (checked at the site alone)'}, "
        f"{policy.max_records_per_patient} records of a patient or fewer in a step",
        "sampling rates follow from "
        + (
            "the site's number of patients, rounded down to a power of two: state run.patients, and nothing does"
            if policy.patients is None
            else f"the stated number of {policy.patients} patients, whatever the site has"
        ),
        f"models: {names(policy.models)}; trained: {names(policy.trainable)}",
        f"apps: {names(policy.apps)}",
        f"columns: {names(policy.columns)}",
        f"results, from {policy.min_evaluation_patients} held-out patients or more: "
        f"{', '.join(metrics) or 'none'}",
        *(["no run may share its noise with other sites"] if policy.peers is None else _peers(policy.peers)),
        *(
            ["'rounded' results carry no privacy guarantee"] if "rounded" in policy.metrics.values() else []
        ),
    ]  # fmt: skip


def _peers(peers: PeerRules) -> list[str]:
    return [
        f"runs may share noise with {', '.join(sorted(peers.roster))}: {peers.honest} sites or fewer relied upon, "
        f"{peers.colluders} or more taken to work together, {peers.least_cohort} or more in a step, {peers.repeats} "
        "or fewer lost steps planned"
    ]


def _file(path: Path) -> Path:
    from client.site_folder import SiteFolder

    file = SiteFolder(path).policy_file if path.is_dir() else path
    if not file.is_file():
        raise PolicyError(
            f"{file}: no such file. Expected a policy, such as `mmmed privacy policy init` writes."
        )
    return file


def _private(path: Path) -> Ed25519PrivateKey:
    from privacy.keys import is_encrypted, load_key

    asked = is_encrypted(path)
    return load_key(path, typer.prompt(f"Passphrase of {path}", hide_input=True) if asked else "")
