"""Classifiers through the trainer: alone, distilled, resumed, measured, exported; and as a detector's backbone."""

import json

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from det_distill.benchmark import data_batches, synthetic_batches
from det_distill.checkpoint import StudentCheckpointer
from det_distill.classification.data import build_test_loader, build_train_loader
from det_distill.engine import Trainer, load_config, setup
from det_distill.export import export_student
from tests.tiny import (
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)

NODE = "INPUT.CLASSIFICATION"
STRONG = (
    *(
        f"{NODE}.AUGMENTATION",
        "resized_crop",
        f"{NODE}.COLOR_JITTER",
        0.4,
        f"{NODE}.RAND_AUGMENT.OPERATIONS",
        2,
    ),
    *(
        f"{NODE}.ERASE",
        0.5,
        f"{NODE}.MIXUP",
        0.4,
        f"{NODE}.CUTMIX",
        1.0,
        "MODEL.CLASSIFIER.LABEL_SMOOTHING",
        0.1,
    ),
)
PAIRS = {"fm": {"METHOD": "FeatureMimicking", "AT": ["embedding"], "LSH": True, "HASHES": 32, "WEIGHT": 0.5}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("classification")


@pytest.fixture(scope="module")
def plain(folder):
    """A classifier's config with data of its own."""
    cfg, root = classifier_cfg(), write_image_folder(folder / "images")
    cfg.DATASETS.IMAGES.coloured = CfgNode({"ROOT": str(root)})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("coloured",)
    (folder / "registered.yaml").write_text(cfg.dump())
    load_config(str(folder / "registered.yaml"))
    return cfg


@pytest.fixture(scope="module")
def distilled(folder, plain):
    teacher = plain.clone()
    teacher.MODEL.CIFAR_RESNET.DEPTH = 14
    cfg = distill_cfg(plain, save_teacher(folder, teacher), PAIRS)
    cfg.DISTILL.CALIBRATION_BATCHES = 2
    cfg.DISTILL.EVAL_TEACHERS = False
    return cfg


def run(folder, cfg, name, *options, resume=False):
    file = folder / f"{name}.yaml"
    file.write_text(cfg.dump())
    torch.manual_seed(123 if resume else 7)
    trainer = Trainer(load_config(str(file), ["OUTPUT_DIR", str(folder / name), *options]))
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def metrics(folder, name):
    logged = {}
    for line in (folder / name / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    return logged


def weights(folder, name, file="model_final.pth"):
    return torch.load(folder / name / file)["model"]


def test_a_plain_classifier_learns_and_is_measured(folder, plain):
    run(folder, plain, "plain", "SOLVER.MAX_ITER", "12")
    logged = metrics(folder, "plain")
    assert logged["classification/top1"] == 100.0  # red and blue
    assert logged["classification/nll"] < 0.5 and "classification/top5" not in logged
    assert {k.split(".")[0] for k in weights(folder, "plain")} == {"backbone", "classifier"}


@pytest.mark.parametrize("more", [(), STRONG], ids=["plainly", "strongly"])
def test_a_distilled_one_is_resumed_exactly(folder, distilled, more):
    """4 iterations straight, and 2 + a new process' worth of objects + 2, end in the same weights."""
    options = ("DATASETS.TEST", "()", "SOLVER.STEPS", "(3,)", "SOLVER.MAX_ITER", "4", *map(str, more))
    first, second = f"straight{len(more)}", f"interrupted{len(more)}"
    run(folder, distilled, first, *options)
    (folder / second).mkdir()
    (folder / first / "model_0000001.pth").rename(folder / second / "model_0000001.pth")
    assert run(folder, distilled, second, *options, resume=True).start_iter == 2
    straight, resumed = weights(folder, first), weights(folder, second)
    assert straight.keys() == resumed.keys() and "distill.fm_embedding.losses.lsh.bias" in straight
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    begin = weights(folder, second, "model_0000001.pth")
    assert not torch.equal(begin["classifier.weight"], straight["classifier.weight"])


def test_switched_off_it_is_the_plain_classifier_bitwise(folder, plain, distilled):
    options = ("SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    run(folder, distilled, "off", "DISTILL.ENABLED", "False", *options)
    run(folder, plain, "alone", *options)
    off, alone = weights(folder, "off"), weights(folder, "alone")
    assert off.keys() == alone.keys() and all(torch.equal(off[k], alone[k]) for k in alone)


def test_the_teachers_accuracy_stands_beside_the_students(folder, distilled):
    run(folder, distilled, "measured", "SOLVER.MAX_ITER", "1", "DISTILL.EVAL_TEACHERS", "True")
    logged = metrics(folder, "measured")
    assert {"big/classification/top1", "classification/top1", "distill_fm_embedding_l2"} <= set(logged)
    results = json.loads((folder / "measured" / "teachers.json").read_text())["big"]["results"]
    by_class = {"top1-disc", "top1-square", "top1-mean"}
    assert set(results["classification"]) == {"top1", "nll", "ece", *by_class}
    assert 0 <= logged["classification/agreement-big"] <= 100
    files = {f"{kind}_coloured.json" for kind in ("classification", "teacher_big")}
    assert {p.name for p in (folder / "measured" / "inference").iterdir()} == files


def test_a_paraphraser_of_a_classifier_is_trained_on_images_without_boxes(folder, distilled):
    cfg = distilled.clone()
    cfg.DISTILL.PAIRS.pop("fm")
    cfg.DISTILL.PAIRS.ft = CfgNode({"METHOD": "FactorTransfer", "AT": ["backbone:res4"]})
    run(
        folder, cfg, "paraphraser", "MODEL.META_ARCHITECTURE", "ParaphraserPretrainer", "SOLVER.MAX_ITER", "1"
    )
    assert {"reconstruct_scaled_res4", "reconstruction/res4"} < set(metrics(folder, "paraphraser"))
    file = str(folder / "paraphraser" / "model_final.pth")
    run(
        folder, cfg, "ft", "DISTILL.PAIRS.ft.PARAPHRASER", file, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"
    )
    assert "distill_ft_res4" in metrics(folder, "ft")


@pytest.mark.parametrize("more", [(), STRONG], ids=["plain", "strong"])
def test_batches_are_the_same_with_worker_processes_and_from_the_middle(plain, more):
    here = plain.clone()
    here.merge_from_list(list(more))
    there = here.clone()
    there.DATALOADER.NUM_WORKERS = 1
    first = iter(build_train_loader(here, lambda: 3))
    batches = [next(first) for _ in range(3)]
    later = build_train_loader(there, lambda: 3)
    later.start = 1
    for expected, found in zip(batches[1:], later, strict=False):
        assert [x["image_id"] for x in expected] == [x["image_id"] for x in found]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(expected, found, strict=True))
        assert all(("target" in x) == bool(more) for x in found)


def test_a_test_set_is_seen_once_in_order_and_uncropped_images_one_by_one(plain):
    sizes = [len(batch) for batch in build_test_loader(plain, "coloured")]
    seen = [x["image_id"] for batch in build_test_loader(plain, "coloured") for x in batch]
    assert sizes == [4, 4] and seen == sorted(seen) and len(set(seen)) == 8
    whole = plain.clone()
    whole.INPUT.CLASSIFICATION.CROP = 0
    assert [len(batch) for batch in build_test_loader(whole, "coloured")] == [1] * 8


def test_rare_classes_can_be_repeated(folder):
    root = write_image_folder(folder / "skewed", count=9)
    for file in sorted((root / "square").iterdir())[1:]:
        file.unlink()
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.skewed = CfgNode({"ROOT": str(root)})
    cfg.DATASETS.TRAIN = ("skewed",)
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 0.9
    (folder / "skewed.yaml").write_text(cfg.dump())
    loader = build_train_loader(load_config(str(folder / "skewed.yaml")), lambda: 0)
    labels = [x["label"] for _, batch in zip(range(24), loader, strict=False) for x in batch]
    # the only square of 10 images: factor sqrt(0.9 / 0.1) = 3 to 1
    assert 0.15 < sum(labels) / len(labels) < 0.35


def test_an_image_that_cannot_be_read_is_named_when_its_turn_comes(folder, plain):
    root = write_image_folder(folder / "broken", count=2)
    (root / "disc" / "001.png").write_bytes(b"not an image")
    cfg = plain.clone()
    cfg.DATASETS.IMAGES.broken = CfgNode({"ROOT": str(root)})
    (folder / "broken.yaml").write_text(cfg.dump())
    loaded = load_config(str(folder / "broken.yaml"), ["DATASETS.TRAIN", "('broken',)"])
    message = r"disc/001.png: the image cannot be read .*: replace it or take it out of its folder"
    with pytest.raises(ValueError, match=message):
        next(iter(build_train_loader(loaded, lambda: 0)))
    with pytest.raises(ValueError, match=message):
        list(build_test_loader(loaded, "broken"))


def test_a_data_set_of_boxes_is_not_for_a_classifier(folder):
    cfg = classifier_cfg()
    cfg.DATASETS.VOC.boxed = CfgNode({"ROOT": str(write_voc(folder / "voc", count=2)), "SPLIT": "all"})
    cfg.DATASETS.TRAIN = ("boxed",)
    (folder / "boxed.yaml").write_text(cfg.dump())
    loaded = load_config(str(folder / "boxed.yaml"))
    with pytest.raises(ValueError, match="'boxed' has no images with a class of their own.*DATASETS.IMAGES"):
        build_train_loader(loaded, lambda: 0)
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        build_train_loader(classifier_cfg(), lambda: 0)


def test_another_number_of_classes_is_told_before_training(folder, distilled):
    (folder / "three.yaml").write_text(distilled.dump())
    given = ["--config-file", str(folder / "three.yaml"), "MODEL.CLASSIFIER.NUM_CLASSES", "3"]
    arguments = default_argument_parser().parse_args([*given, "OUTPUT_DIR", str(folder / "three")])
    with pytest.raises(
        ValueError, match="2 classes .disc, square. but .* 3. Set MODEL.CLASSIFIER.NUM_CLASSES to 2"
    ):
        setup(arguments)


def test_a_benchmark_has_batches_of_noise_and_of_data(plain, distilled):
    for cfg in (plain, distilled):
        (noise,) = synthetic_batches(cfg, 8, 12, 3, count=1)
        assert [x["image"].shape for x in noise] == [(3, 8, 12)] * 3 and {x["label"] for x in noise} <= {0, 1}
    assert build_model(plain).train()(noise)["loss_cls"].isfinite()
    assert [x["image"].shape for x in data_batches(plain, 1)[0]] == [(3, 8, 8)] * 4


def test_the_student_is_exported_as_a_plain_classifier(folder, distilled):
    model = build_model(distilled)
    torch.save({"model": model.state_dict()}, folder / "run.pth")
    export = export_student(distilled, str(folder / "run.pth"), folder / "export")
    assert export.needs_det_distill and set(export.differences.values()) == {0.0}
    state = torch.load(export.folder / "student.pth")["model"]
    assert state.keys() == model.student.state_dict().keys()


def test_a_classifier_of_default_values_can_be_exported_too(folder):
    cfg = classifier_cfg(depth=20, classes=10)
    torch.save({"model": build(cfg).state_dict()}, folder / "default.pth")
    cfg.freeze()
    export = export_student(cfg, str(folder / "default.pth"), folder / "default")
    assert set(export.differences.values()) == {0.0}


@pytest.mark.parametrize("part", ["the whole file", "the backbone alone"])
def test_its_backbone_starts_a_detector_that_names_its_file(folder, plain, part):
    detector = detector_cfg()
    detector.MODEL.BACKBONE.NAME = "build_cifar_resnet_fpn_backbone"
    detector.MODEL.CIFAR_RESNET.DEPTH = 8
    detector.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    detector.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    detector.MODEL.RPN.IN_FEATURES, detector.MODEL.ROI_HEADS.IN_FEATURES = ["p1", "p2", "p3"], ["p1", "p2"]
    run(folder, plain, "short", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()")
    file, model = folder / "short" / "model_final.pth", build(detector)
    trained = {k: v for k, v in weights(folder, "short").items() if k.startswith("backbone.")}
    expected = {k.removeprefix("backbone."): v for k, v in trained.items()}
    if part == "the backbone alone":
        file = folder / "backbone.pth"
        torch.save({"model": expected, "matching_heuristics": True}, file)
    StudentCheckpointer(model).resume_or_load(str(file), resume=False)
    found = model.backbone.bottom_up.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(v, expected[k]) for k, v in found.items())
