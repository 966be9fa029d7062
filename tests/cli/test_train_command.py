"""`det-distill train`: detectron2's options; what --eval-only must not measure."""

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from det_distill.cli.main import main
from det_distill.cli.train import parser
from det_distill.measured_weights import MeasuredCheckpointer
from tests.tiny import build, classifier_cfg, detector_cfg, distill_cfg, save_teacher, write_image_folder


def test_the_options_and_their_defaults_are_detectron2s():
    def known(p):
        return {a.dest: (a.option_strings, a.default, a.type, a.nargs, a.const) for a in p._actions}

    assert known(parser()) == known(default_argument_parser())


@pytest.fixture
def classifier(tmp_path):
    """Writes a checkpoint of a classifier's tensors, those that are kept; returns its file."""

    def write(keep=lambda name: True, **options):
        cfg = classifier_cfg(**options)
        file = tmp_path / "some.pth"
        torch.save({"model": {k: v for k, v in build(cfg).state_dict().items() if keep(k)}}, file)
        return str(file)

    return write


def test_a_whole_checkpoint_is_measured_and_part_of_one_is_refused_with_what_is_missing(classifier):
    model = build(classifier_cfg())
    MeasuredCheckpointer(model).load(classifier())
    assert torch.equal(model.classifier.weight, build(classifier_cfg()).classifier.weight)
    with pytest.raises(
        ValueError, match=r"some\.pth .*2 are not in the file, such as classifier\.weight.*a backbone"
    ):
        MeasuredCheckpointer(model).load(classifier(lambda name: name.startswith("backbone.")))
    with pytest.raises(ValueError, match="another shape there, such as classifier.weight"):
        MeasuredCheckpointer(model).load(classifier(classes=5))


def test_a_count_of_batches_may_be_missing_and_so_may_the_pairs_of_a_distillation(classifier, tmp_path):
    MeasuredCheckpointer(build(classifier_cfg())).load(
        classifier(lambda n: not n.endswith("num_batches_tracked"))
    )
    teacher = save_teacher(tmp_path, detector_cfg(width=8))
    pair = {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"]}
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": pair})
    torch.save({"model": build(detector_cfg()).state_dict()}, tmp_path / "student.pth")
    MeasuredCheckpointer(build_model(cfg)).load(str(tmp_path / "student.pth"))


def test_a_backbones_file_is_an_error_of_eval_only(tmp_path):
    cfg = detector_cfg()
    model = build(cfg)
    content = {"model": model.backbone.bottom_up.state_dict(), "network": {"part": "backbone"}}
    torch.save(content, tmp_path / "backbone.pth")
    with pytest.raises(
        ValueError, match=r"backbone\.pth does not give all tensors .* random ones would be measured"
    ):
        MeasuredCheckpointer(model).load(str(tmp_path / "backbone.pth"))


def test_the_command_says_so_in_one_line(tmp_path, classifier, capsys):
    cfg = classifier_cfg()
    folder = write_image_folder(tmp_path / "images")
    cfg.DATASETS.IMAGES.measured_shapes = type(cfg)({"ROOT": str(folder)})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("measured_shapes",)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    words = ["train", "--config-file", str(tmp_path / "cfg.yaml"), "--eval-only", "MODEL.WEIGHTS"]
    with pytest.raises(SystemExit, match="^det-distill train: .*some.pth does not give all tensors"):
        main([*words, classifier(lambda name: name.startswith("backbone."))])
    main([*words, classifier()])
    assert "top1" in capsys.readouterr().out
