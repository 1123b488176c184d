"""One private step: what it moves, what it refuses, and what it leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privacy.dpsgd import PrivateStep
from privacy.errors import NoiseError, PrivacyError, StepError, UnsupportedModel, UntrackedParameter
from tests.oracles.clipping import clipped_sum

ENGINES = ["hooks", "ghost", "bookkeeping"]
C = 0.3


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3), nn.LayerNorm(3)
    )


IMAGES = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(7) % 3


def losses(model: nn.Module, rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
    return F.cross_entropy(model(IMAGES[rows]), LABELS[rows], reduction="none")


def record_loss(model: nn.Module, r: int) -> torch.Tensor:
    return F.cross_entropy(model(IMAGES[r : r + 1].double()), LABELS[r : r + 1])


def make_step(model: nn.Module, engine: str = "hooks", **changes: object) -> PrivateStep:
    options: dict[str, object] = {
        "noise_multiplier": 0.0,
        "max_grad_norm": C,
        "expected_units": 4.0,
        "allow_noiseless": True,
        "engine": engine,
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    return PrivateStep(model, torch.optim.SGD(trained, lr=1.0), **(options | changes))  # type: ignore[arg-type]


def moved(before: nn.Module, after: nn.Module) -> dict[str, torch.Tensor]:
    """What was released: the step's sum, before the division by expected_units = 4."""
    old = dict(before.named_parameters())
    return {name: 4.0 * (old[name] - p).detach() for name, p in after.named_parameters()}


def assert_close(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5
) -> None:
    scale = max(float(v.norm()) for v in expected.values())
    for name, value in expected.items():
        assert float((found[name].double() - value).norm()) <= tolerance * scale, name


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_releases_the_sum_of_clipped_record_gradients(engine: str, clipping: str) -> None:
    model, units = small_model(), torch.arange(7)
    before = copy.deepcopy(model)
    make_step(model, engine, clipping=clipping)(lambda: losses(model), units)
    expected = clipped_sum(before, record_loss, units, C, clipping)
    assert (expected.factors < 1).any()
    assert_close(moved(before, model), expected.sums)


@settings(max_examples=15, deadline=None)
@given(
    units=st.lists(st.integers(-3, 3), min_size=7, max_size=7),
    shares=st.sampled_from(
        [
            None,
            {"0": 0.2, "1": 0.05, "4": 0.7, "5": 0.05},
            {"0": 0.1, "1": 0.1, "4.weight": 0.5, "4.bias": 0.1, "5": 0.2},
        ]
    ),
)
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "ghost"])
def test_groups_are_clipped_apart(engine: str, units: list[int], shares: dict[str, float] | None) -> None:
    model, ids = small_model(), torch.tensor(units)
    before = copy.deepcopy(model)
    make_step(model, engine, clipping="per-group", group_shares=shares)(lambda: losses(model), ids)
    split = shares or dict.fromkeys("0145", 0.25)
    bounds = {prefix: C * share**0.5 for prefix, share in split.items()}
    expected = clipped_sum(before, record_loss, ids, C, "per-group", bounds)
    assert_close(moved(before, model), expected.sums)


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "ghost"])
def test_groups_together_stay_within_the_clipping_norm(engine: str) -> None:
    model = small_model()
    before = copy.deepcopy(model)
    make_step(model, engine, clipping="per-group")(lambda: 1e3 * losses(model, slice(0, 1)), torch.arange(1))
    released = torch.cat([value.flatten() for value in moved(before, model).values()])
    assert float(released.norm()) == pytest.approx(C, rel=1e-5)  # every group is clipped


@pytest.mark.parametrize(
    "shares",
    [{"0": 0.5, "1": 0.5}, {"0": 0.4, "1": 0.1, "4": 0.5, "5": 0.1}, {"0": 1.0, "1": 0.5, "4": -1.0, "5": 0.5},
     {"0": 0.3, "1": 0.3, "4": 0.1, "4.bias": 0.1, "5": 0.2}, {}],
)  # fmt: skip
def test_groups_that_do_not_split_the_budget_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(StepError, match="group"):
        make_step(small_model(), clipping="per-group", group_shares=shares)
    with pytest.raises(StepError, match="group"):
        make_step(small_model(), group_shares=shares)


def test_ghost_refuses_groups() -> None:
    model = small_model()
    with pytest.raises(StepError, match="ghost"):
        make_step(model, "ghost", clipping="per-group")(lambda: losses(model), torch.arange(7))


def test_the_clipping_norm_may_change_between_steps_but_not_within_one() -> None:
    model, units = small_model(), torch.arange(7)
    step = make_step(model)
    step(lambda: losses(model), units)
    step.optimizer.max_grad_norm = C / 10
    before = copy.deepcopy(model)
    step(lambda: losses(model), units)
    assert_close(moved(before, model), clipped_sum(before, record_loss, units, C / 10).sums)
    step.accumulate(lambda: losses(model, slice(0, 3)), units[:3])
    step.optimizer.max_grad_norm = C / 20
    with pytest.raises(StepError, match="between steps"):
        step.accumulate(lambda: losses(model, slice(3, 7)), units[3:])
    step.accumulate(lambda: losses(model), units)
    step.optimizer.max_grad_norm = C / 40
    with pytest.raises(StepError, match="between steps"):
        step.finish()


@settings(max_examples=15, deadline=None)
@given(units=st.lists(st.integers(-3, 3), min_size=7, max_size=7))
@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "ghost"])
def test_a_patient_is_clipped_once_whatever_the_order_of_its_records(engine: str, units: list[int]) -> None:
    model, ids = small_model(), torch.tensor(units)
    before = copy.deepcopy(model)
    make_step(model, engine)(lambda: losses(model), ids)
    assert_close(moved(before, model), clipped_sum(before, record_loss, ids, C).sums)


@pytest.mark.parametrize("engine", ENGINES)
def test_adding_a_patient_moves_the_sum_by_at_most_the_clipping_norm(engine: str) -> None:
    models = [small_model(), small_model()]
    before = small_model()
    for model, rows in zip(models, [slice(0, 6), slice(0, 7)], strict=True):
        make_step(model, engine)(lambda m=model, r=rows: 1e3 * losses(m, r), torch.arange(7)[rows])
    a, b = (torch.cat([v.flatten() for v in moved(before, m).values()]) for m in models)
    assert 0.99 * C < float((a - b).norm()) <= C * (1 + 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_parts_give_the_same_step_as_the_whole(engine: str) -> None:
    whole, parts, units = small_model(), small_model(), torch.arange(7)
    before = copy.deepcopy(whole)
    make_step(whole, engine)(lambda: losses(whole), units)
    step = make_step(parts, engine)
    for rows in (slice(0, 3), slice(3, 5), slice(5, 7)):
        step.accumulate(lambda r=rows: losses(parts, r), units[rows])
    step.finish()
    assert_close(moved(before, parts), {n: v.double() for n, v in moved(before, whole).items()}, 1e-6)


def test_a_unit_in_two_parts_is_refused_and_the_batch_forgotten() -> None:
    model = small_model()
    before = copy.deepcopy(model)
    step = make_step(model)
    step.accumulate(lambda: losses(model, slice(0, 3)), torch.tensor([1, 2, 3]))
    with pytest.raises(StepError, match="clipped twice"):
        step.accumulate(lambda: losses(model, slice(3, 5)), torch.tensor([3, 4]))
    step.finish()
    assert all(not v.any() for v in moved(before, model).values())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_a_step_of_noise_alone(engine: str) -> None:
    model = small_model()
    before = copy.deepcopy(model)

    def never() -> torch.Tensor:
        raise AssertionError("record_losses was called for an empty batch")

    make_step(model, engine, noise_multiplier=1.0, allow_noiseless=False)(
        never, torch.empty(0, dtype=torch.int64)
    )
    for name, change in moved(before, model).items():
        assert (change != 0).all(), name


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(36, 3), nn.Linear(2000, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x.flatten(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unused_parameter_gets_the_same_noise_as_the_others(engine: str) -> None:
    torch.manual_seed(0)
    model = Unused()
    before = copy.deepcopy(model)
    make_step(model, engine, noise_multiplier=2.0)(lambda: losses(model), torch.arange(7))
    change = moved(before, model)["idle.weight"]
    # 40,000 draws: the mean and the standard deviation are within 5 standard errors.
    assert abs(float(change.mean())) < 5 * 2 * C / 200
    assert abs(float(change.std()) / (2 * C) - 1) < 5 / 200 / 1.4


def test_the_noise_ignores_seeds() -> None:
    releases = []
    for _ in range(2):
        model = small_model()
        before = copy.deepcopy(model)
        step = make_step(model, noise_multiplier=1.0)
        torch.manual_seed(7)
        step(lambda m=model: losses(m), torch.arange(7))
        releases.append(moved(before, model)["4.weight"])
    assert not torch.isclose(*releases).any()


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "ghost"])
def test_a_record_with_an_infinite_gradient_adds_nothing(engine: str) -> None:
    model, units = small_model(), torch.arange(7)
    before = copy.deepcopy(model)
    images = IMAGES.clone()
    images[2] = float("inf")
    make_step(model, engine)(lambda: F.cross_entropy(model(images), LABELS, reduction="none"), units)
    keep = torch.tensor([0, 1, 3, 4, 5, 6])
    expected = clipped_sum(before, lambda m, r: record_loss(m, int(keep[r])), keep, C)
    assert_close(moved(before, model), expected.sums)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_keeps_its_names_and_no_gradient_is_left(engine: str) -> None:
    model = small_model()
    names = list(model.state_dict())
    for _ in range(2):  # a new step for the same model, as in every round
        make_step(model, engine)(lambda: losses(model), torch.arange(7))
    assert list(model.state_dict()) == names
    assert all(p.grad is None and not hasattr(p, "_norm_sample") for p in model.parameters())
    assert all(getattr(p, "grad_sample", None) is None for p in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_ordinary_use_between_steps_changes_nothing(engine: str) -> None:
    model, reference = small_model(), small_model()
    before = copy.deepcopy(model)
    step = make_step(model, engine)
    losses(model).mean().backward()  # an evaluation that forgets no_grad
    step(lambda: losses(model), torch.arange(7))
    make_step(reference, engine)(lambda: losses(reference), torch.arange(7))
    assert_close(moved(before, model), {n: v.double() for n, v in moved(before, reference).items()}, 1e-6)


class InPlace(nn.Module):
    """Changes the outputs of its layers in place, as MONAI's residual blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(36, 3), nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.first(x.flatten(1))
        out += self.second(x.flatten(1))
        return F.relu(out, inplace=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layers_output_may_be_changed_in_place(engine: str) -> None:
    torch.manual_seed(0)
    model = InPlace()
    before = copy.deepcopy(model)
    make_step(model, engine)(lambda: losses(model), torch.arange(7))
    assert_close(moved(before, model), clipped_sum(before, record_loss, torch.arange(7), C).sums)


class Tied(nn.Module):
    """The embedding is also the output layer, by a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.table(ids).mean(1), self.table.weight)


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale.exp()


@pytest.mark.parametrize("engine", ["hooks", "ghost"])
def test_opacus_engines_refuse_a_functional_use_by_name(engine: str) -> None:
    torch.manual_seed(0)
    tied = Tied()
    before = copy.deepcopy(tied.state_dict())
    ids = torch.randint(0, 6, (4, 5))
    with pytest.raises(UntrackedParameter, match=r"table\.weight"):
        make_step(tied, engine)(lambda: tied(ids).logsumexp(1), torch.arange(4))
    assert all(torch.equal(before[k], v) for k, v in tied.state_dict().items())


class RunningMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(36, 3)
        self.register_buffer("mean", torch.zeros(36))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.flatten(1).mean(0).detach())
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_buffer_written_by_the_forward_pass_is_refused(engine: str) -> None:
    model = RunningMean()
    before = copy.deepcopy(list(model.parameters()))
    with pytest.raises(UnsupportedModel, match="buffer mean"):
        make_step(model, engine)(lambda: losses(model), torch.arange(7))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm2d(1), "BatchNorm2d"),
        (nn.BatchNorm2d(1, affine=False), "BatchNorm2d"),
        (nn.InstanceNorm2d(1, affine=True, track_running_stats=True), "running statistics"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_mix_records_are_refused_by_name(engine: str, layer: nn.Module, reason: str) -> None:
    model = nn.Sequential(layer, small_model())
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        make_step(model, engine)
    assert str(caught.value).startswith("0 (")


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 0.0, "allow_noiseless": False},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": float("nan")},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": float("inf")},
        {"expected_units": 0.0},
        {"clipping": "none"},
        {"engine": "fastest"},
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(StepError):
        make_step(small_model(), **changes)


def test_wrong_losses_and_units_are_refused() -> None:
    model = small_model()
    step = make_step(model)
    with pytest.raises(StepError, match="one loss a record"):
        step(lambda: losses(model).mean(), torch.arange(7))
    with pytest.raises(StepError, match="integers"):
        step(lambda: losses(model), torch.arange(7).float())
    with pytest.raises(StepError, match="no trainable parameter"):
        step(lambda: losses(model).detach(), torch.arange(7))


def test_the_optimizer_must_hold_the_models_parameters() -> None:
    model = small_model()
    parameters = list(model.parameters())
    settings_ = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_units": 1.0}
    with pytest.raises(StepError, match=r"5\.bias"):
        PrivateStep(model, torch.optim.SGD(parameters[:-1], lr=1.0), **settings_)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="not the model's"):
        PrivateStep(
            model,
            torch.optim.SGD([*parameters, nn.Parameter(torch.ones(1))], lr=1.0),
            **settings_,  # type: ignore[arg-type]
        )


def test_ghost_refuses_patients_of_several_records() -> None:
    model = small_model()
    with pytest.raises(StepError, match="several"):
        make_step(model, "ghost")(lambda: losses(model), torch.tensor([0, 0, 1, 2, 3, 4, 5]))


def test_a_sum_that_is_not_finite_is_never_released() -> None:
    model = small_model()
    step = make_step(model, noise_multiplier=1.0)
    step.accumulate(lambda: losses(model), torch.arange(7))
    model[0].weight.summed_grad.fill_(float("nan"))
    with pytest.raises(NoiseError):
        step.finish()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_was_tried_on_checks_no_batch(engine: str) -> None:
    model, calls = small_model(), []
    step = make_step(model, engine)
    step.try_on(lambda rows: losses(model, rows), torch.arange(7))
    before = copy.deepcopy(model)
    step(lambda: calls.append(1) or losses(model), torch.arange(7))
    assert len(calls) == 1
    assert_close(moved(before, model), clipped_sum(before, record_loss, torch.arange(7), C).sums)


def test_trying_on_refuses_and_moves_nothing() -> None:
    model = small_model()
    before = copy.deepcopy(model)
    with pytest.raises(UnsupportedModel, match="mixes the records"):
        make_step(model).try_on(
            lambda rows: losses(model, rows) * losses(model, rows).mean(), torch.arange(7)
        )
    assert all(float(value.abs().max()) == 0 for value in moved(before, model).values())


@pytest.mark.parametrize("clipping", ["flat", "automatic", "per-group"])
@pytest.mark.parametrize("engine", ["hooks", "bookkeeping"])
def test_copies_that_fill_a_part_are_nobodys(engine: str, clipping: str) -> None:
    own, filled = small_model(), small_model()
    units, rows = torch.tensor([5, 5, -2, 9]), torch.tensor([0, 1, 2, 3, 0, 1, 6])
    make_step(own, engine, clipping=clipping)(lambda: losses(own, rows[:4]), units)
    step = make_step(filled, engine, clipping=clipping)
    step.accumulate(lambda: losses(filled, rows), units, copies=3)
    step.finish()
    before = small_model()
    assert_close(moved(before, filled), moved(before, own))


def test_a_part_has_a_loss_for_each_copy() -> None:
    model = small_model()
    with pytest.raises(StepError, match=r"shape \(7,\). Found \(4,\)"):
        make_step(model).accumulate(lambda: losses(model, slice(0, 4)), torch.arange(4), copies=3)
