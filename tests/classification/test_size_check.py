"""Images that do not fit, or do not fit the network, are told when the training is built."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from det_distill.classification.data import build_test_loader, build_train_loader
from det_distill.classification.size_check import check_image_size
from det_distill.data import DatasetError
from det_distill.data.image_folder import register_images
from tests.tiny import build, classifier_cfg, detector_cfg, distill_cfg, save_teacher, write_image_folder

NAMES = ("eight_pixels", "nine_pixels", "one_is_broken", "one_array")


@pytest.fixture(scope="module", autouse=True)
def sets(tmp_path_factory):
    """Folders of images of 8 x 8, of 9 x 9, and with a broken one; a gray array of 8 x 9."""
    folder = tmp_path_factory.mktemp("sizes")
    for name, side in (("eight_pixels", 8), ("nine_pixels", 9), ("one_is_broken", 8)):
        register_images(name, write_image_folder(folder / name, size=(side, side)))
    (folder / "one_is_broken" / "disc" / "001.png").write_bytes(b"no image")
    array = {"pixels": np.zeros((8, 9), np.uint8), "image_id": "a/7", "label": 0}
    DatasetCatalog.register("one_array", lambda: [dict(array)])
    MetadataCatalog.get("one_array").thing_classes = ["disc", "square"]
    yield folder
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*options, train=("eight_pixels",), test=("eight_pixels",)):
    cfg = classifier_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    keys = [f"INPUT.CLASSIFICATION.{k}" if k in cfg.INPUT.CLASSIFICATION else k for k in options[::2]]
    cfg.merge_from_list([x for pair in zip(keys, options[1::2], strict=True) for x in pair])
    return cfg


def complaint(cfg):
    model = build_model(cfg)
    with pytest.raises(ValueError) as error:
        check_image_size(cfg, model)
    return str(error.value)


def warnings(caplog, cfg):
    model = build_model(cfg)
    with caplog.at_level(logging.WARNING, "det_distill"):
        check_image_size(cfg, model)
    return [record.getMessage() for record in caplog.records]


VGG = ("MODEL.BACKBONE.NAME", "build_vgg_backbone", "MODEL.VGG.DEPTH", 11)
PLAIN = ("MODEL.BACKBONE.NAME", "build_plain_backbone", "MODEL.PLAIN.LAYERS", ["C3@4", "MP2", "FC6"])
REGNET = ("MODEL.BACKBONE.NAME", "build_regnet_backbone")


@pytest.mark.parametrize("where", ["workers", "memory"])
def test_an_image_that_is_too_small_is_told_with_its_own_size_when_the_loader_is_built(sets, where):
    with pytest.raises(DatasetError) as error:
        build_train_loader(config("CROP", 64, "PAD", 4, "LOADER", where), lambda: 0)
    assert str(error.value) == (
        f"the data set 'eight_pixels': {sets}/eight_pixels/disc/000.png (8 x 8 pixels): the image has 16 x 16 pixels "
        "with RESIZE 0 and PAD 4 where INPUT.CLASSIFICATION.CROP is 64: set RESIZE to at least 64, or a smaller CROP"
    )


def test_an_image_of_each_training_set_is_looked_at():
    cfg = config("CROP", 9, "PAD", 0, train=("nine_pixels",))
    build_train_loader(cfg, lambda: 0)
    cfg.DATASETS.TRAIN = ("nine_pixels", "one_array")
    with pytest.raises(
        DatasetError, match=r"'one_array': a/7 \(8 x 9 pixels\): the image has 8 x 9 pixels with"
    ):
        build_train_loader(cfg, lambda: 0)


def test_test_images_that_are_too_small_are_told_before_the_training(sets):
    """Training pads its images, a test does not."""
    cfg = config("CROP", 10, "PAD", 1)
    build_train_loader(cfg, lambda: 0)
    text = complaint(cfg)
    assert (
        f"'eight_pixels': {sets}/eight_pixels/disc/000.png (8 x 8 pixels): the image has 8 x 8 pixels with RESIZE 0"
        in text
    )
    assert "PAD" not in text


def test_looking_draws_nothing_and_leaves_the_model_as_it_was():
    cfg = config("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.NORM", "BN", "PAD", 4)
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.RESNETS.DEPTH", 50])
    cfg.merge_from_list(["MODEL.BACKBONE.FREEZE_AT", 0])
    model = build_model(cfg)
    model.backbone.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    check_image_size(cfg, model)
    build_train_loader(cfg, lambda: 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_images_that_are_too_small_for_the_backbone_are_told_with_the_keys():
    text = complaint(config(*VGG))
    assert text.startswith(
        "the backbone 'build_vgg_backbone' (MODEL.BACKBONE.NAME) cannot take images of 8 x 8"
    )
    assert "Output size is too small" in text and text.count("\n") == 0
    assert "set INPUT.CLASSIFICATION.CROP (and RESIZE) to another size, or take another backbone" in text


def test_a_backbone_that_wants_a_multiple_of_pixels_says_so_when_the_training_is_built():
    cfg = detector_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.INPUT.CLASSIFICATION.CROP, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = 40, ("eight_pixels",), ()
    assert "'build_resnet_fpn_backbone' (MODEL.BACKBONE.NAME) cannot take images of 40 x 40" in complaint(cfg)


@pytest.mark.parametrize(
    ("train", "test", "name"),
    [
        (("one_array",), (), "one_array"),
        (("nine_pixels", "eight_pixels"), (), "eight_pixels"),
        (("nine_pixels",), ("eight_pixels",), "eight_pixels"),
    ],
)
def test_without_a_crop_an_image_of_every_set_is_tried(train, test, name):
    cfg = config(*PLAIN, "MODEL.PLAIN.IMAGE_SIZE", 9, "CROP", 0, train=train, test=test)
    assert f"(the first of {name!r}) (images of 8 x" in complaint(cfg)


def test_a_network_that_takes_the_images_is_let_through(caplog):
    for options in (PLAIN, ()):
        assert not warnings(caplog, config(*options, "MODEL.PLAIN.IMAGE_SIZE", 8))
    assert not warnings(caplog, detector_cfg())
    everywhere = config(
        *PLAIN, "MODEL.PLAIN.IMAGE_SIZE", 9, "CROP", 0, train=("nine_pixels",), test=("nine_pixels",)
    )
    assert not warnings(caplog, everywhere)


def test_the_teachers_are_asked_too(tmp_path):
    teacher, pairs = config(*VGG), {"kd": {"METHOD": "SoftTarget", "AT": ["classifier"]}}
    cfg = distill_cfg(config(), save_teacher(tmp_path, teacher), pairs)
    assert complaint(cfg).startswith("the backbone of teacher 'big' cannot take images of 8 x 8 pixels")
    cfg = distill_cfg(teacher, save_teacher(tmp_path, config()), pairs)
    assert complaint(cfg).startswith("the backbone 'build_vgg_backbone' (MODEL.BACKBONE.NAME) cannot take")


def test_a_map_of_a_single_cell_under_batch_norm_is_a_warning(caplog):
    (text,) = warnings(caplog, config(*REGNET, "CROP", 32, test=()))
    assert (
        "'build_regnet_backbone' (MODEL.BACKBONE.NAME) makes maps of 1 x 1 cell of images of 32 x 32 pixels"
        in text
    )
    assert "INPUT.CLASSIFICATION.RESIZE and CROP" in text and "smaller stride" in text


@pytest.mark.parametrize(
    "options",
    [
        (*REGNET, "CROP", 64),
        (*REGNET, "CROP", 32, "MODEL.REGNET.OUT_FEATURES", ["s3"]),
        (*VGG, "CROP", 32, "MODEL.VGG.NORM", "BN"),  # pool5 is the last thing, behind every norm
        (*PLAIN, "MODEL.PLAIN.IMAGE_SIZE", 8, "MODEL.PLAIN.NORM", "BN"),
    ],
    ids=["larger images", "smaller stride", "no norm there", "fully connected"],
)
def test_maps_of_a_single_cell_that_do_no_harm_are_no_warning(caplog, options):
    assert not warnings(caplog, config(*options, test=()))


def test_batch_norm_at_rest_is_no_warning(caplog):
    cfg = config(*REGNET, "CROP", 32, test=())
    model = build(cfg)
    model.backbone.eval()
    with caplog.at_level(logging.WARNING, "det_distill"):
        check_image_size(cfg, model)
    assert not caplog.records


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_error_without_tracebacks_in_it(sets, workers):
    cfg = config("DATALOADER.NUM_WORKERS", workers, "SOLVER.IMS_PER_BATCH", 8)
    cfg.DATASETS.TRAIN = ("one_is_broken",)
    for loader in (build_train_loader(cfg, lambda: 0), build_test_loader(cfg, "one_is_broken")):
        with pytest.raises(DatasetError) as error:
            list(islice(loader, 2))
        assert str(error.value).startswith(f"{sets}/one_is_broken/disc/001.png: the image cannot be read (")
        assert "Traceback" not in str(error.value) and "worker" not in str(error.value)
        assert error.value.__cause__ is None and error.value.__context__ is None


def test_a_test_loader_still_knows_how_many_batches_it_has():
    assert (
        len(build_test_loader(config(), "eight_pixels"))
        == len(list(build_test_loader(config(), "eight_pixels")))
        == 2
    )
