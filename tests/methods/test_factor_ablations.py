"""The switches of ``FactorTransfer``: what is left when a part is off, and what is refused."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill.adapters import AutoEncoderTranslator, Translator
from det_distill.losses import FactorTransfer
from det_distill.methods import METHODS, Side
from det_distill.paraphrasers import new_paraphraser
from det_distill.taps import FeatureSpec
from tests.tiny import batch, detector_cfg, distill_cfg, save_teacher


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def side(channels):
    return Side(("backbone:p2",), (FeatureSpec(channels, 4),))


def written(folder, channels, **options):
    """A file with one paraphraser, of no particular teacher."""
    model = torch.nn.Module()
    model.add_module(
        "paraphrasers", torch.nn.ModuleDict({"backbone:p2": new_paraphraser(channels, **options)})
    )
    torch.save({"model": model.state_dict()}, folder / "paraphraser.pth")
    return str(folder / "paraphraser.pth")


def method(student, teacher, **options):
    return METHODS["FactorTransfer"](side(student), side(teacher), **options)


def test_without_a_paraphraser_the_translator_makes_the_teachers_map_itself():
    parts = method(5, 7, paraphraser_kind="none", layers=2)
    assert parts.teacher_adapter is None
    assert isinstance(parts.student_adapter, Translator)
    assert (parts.student_adapter.factor_channels, parts.student_adapter.layers) == (7, 2)


def test_without_a_paraphraser_and_a_translator_it_is_the_loss_of_the_maps():
    parts = method(6, 6, paraphraser_kind="none", translator=False, reduction="sum")
    assert parts.student_adapter is None and parts.teacher_adapter is None
    student, teacher = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    assert torch.equal(parts.loss(student, teacher), FactorTransfer(reduction="sum")(student, teacher))


def test_without_a_translator_the_students_channels_must_be_the_factors(tmp_path):
    file = written(tmp_path, 12, rate=0.25)
    parts = method(3, 12, translator=False, rate=0.25, paraphraser=file)
    assert parts.student_adapter is None and parts.teacher_adapter.factor_channels == 3
    with pytest.raises(
        ValueError, match=r"has 4 channels and the factor .* has 3: set RATE .*4 / 12 = 0.3333"
    ):
        method(4, 12, translator=False, rate=0.25, paraphraser=file)
    with pytest.raises(ValueError, match=r"has 4 channels and the factor .* has 12: use a paraphraser"):
        method(4, 12, translator=False, paraphraser_kind="none")


def test_a_third_of_the_channels_can_be_written_with_four_digits(tmp_path):
    assert method(32, 96, translator=False, rate=0.3333, paraphraser=written(tmp_path, 96, rate=0.3333))


def test_switches_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing for TRANSLATOR_BATCH_NORM"):
        method(4, 4, translator=False, translator_batch_norm=True, paraphraser_kind="none")
    file = written(tmp_path, 8, kind="autoencoder")
    with pytest.raises(ValueError, match="autoencoder is half as high and wide"):
        method(1, 8, translator=False, paraphraser_kind="autoencoder", paraphraser=file)
    with pytest.raises(ValueError, match="PARAPHRASER_KIND 'identity': choose"):
        method(4, 4, paraphraser_kind="identity")
    with pytest.raises(ValueError, match="needs a trained paraphraser"):
        method(4, 4, paraphraser_kind="autoencoder")


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "translator"), [("paraphraser", Translator), ("autoencoder", AutoEncoderTranslator)]
)
def test_translator_and_paraphraser_have_one_form_at_every_depth(tmp_path, kind, translator, layers):
    file = written(tmp_path, 8, kind=kind, layers=layers)
    parts = method(3, 8, paraphraser_kind=kind, layers=layers, paraphraser=file)
    assert isinstance(parts.student_adapter, translator) and parts.student_adapter.layers == layers
    student, teacher = torch.randn(2, 3, 5, 6), torch.randn(2, 8, 5, 6)
    value = parts.loss(parts.student_adapter(student), parts.teacher_adapter(teacher))
    value.backward()
    assert value > 0 and all(p.grad is not None for p in parts.student_adapter.parameters())
    assert not any(p.requires_grad for p in parts.teacher_adapter.parameters())


def test_the_defaults_are_the_method_as_it_is(tmp_path):
    parts = method(6, 8, paraphraser=written(tmp_path, 8))
    expected = Translator(6, 4)
    assert {k: v.shape for k, v in parts.student_adapter.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }


@pytest.mark.parametrize(
    "options",
    [
        {"PARAPHRASER_KIND": "none"},
        {"PARAPHRASER_KIND": "autoencoder"},
        {"PARAPHRASER_KIND": "autoencoder", "LAYERS": 1, "BATCH_NORM": True},
        {"TRANSLATOR": False, "RATE": 2 / 3},
        {"LAYERS": 1},
        {"LAYERS": 4},
        {"RATE": 0.75},
        {"RATE": 1.0},
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_both_stages_run_from_one_config_on_images_of_unequal_size(tmp_path, options):
    node = {"METHOD": "FactorTransfer", "AT": ["backbone:p2"], "WEIGHT": 20.0, **options}
    cfg = distill_cfg(detector_cfg(), save_teacher(tmp_path, detector_cfg(width=8, fpn=24)), {"ft": node})
    data = batch(((64, 96), (36, 68)))
    if cfg.DISTILL.PAIRS.ft.PARAPHRASER_KIND != "none":
        first = cfg.clone()
        first.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
        torch.save({"model": build_model(first).state_dict()}, tmp_path / "paraphraser.pth")
        cfg.DISTILL.PAIRS.ft.PARAPHRASER = str(tmp_path / "paraphraser.pth")
    model = build_model(cfg).train()
    with EventStorage():
        value = model(data)["distill_ft_p2"]
    value.backward()
    assert value.isfinite() and value > 0
    adapters = {n: p for n, p in model.named_parameters() if "student_adapter" in n}
    assert bool(adapters) == cfg.DISTILL.PAIRS.ft.TRANSLATOR
    assert all(p.grad is not None for p in adapters.values())
    assert model.student.backbone.fpn_output2.weight.grad.abs().max() > 0
