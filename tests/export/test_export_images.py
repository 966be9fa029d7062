"""Outputs are compared on photos of the test set, of several sizes; on noise if there are none, and that is told."""

from importlib.util import find_spec

import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

from det_distill.data import DatasetError, register_from_config
from det_distill.data.demo import prepare_demo_tiles
from det_distill.export import export_student
from det_distill.export.images import at_several_sizes, first_images, images_to_compare
from tests.tiny import build, classifier_cfg, detector_cfg, write_image_folder, write_voc


def with_test_set(cfg, name, root, split="all"):
    cfg.DATASETS.VOC[name] = CfgNode({"ROOT": str(root), "SPLIT": split})
    cfg.DATASETS.TEST = (name,)
    register_from_config(cfg)
    return cfg


def test_the_first_photos_of_the_test_set_are_taken_as_in_a_test_smaller_and_in_another_shape(tmp_path):
    cfg = with_test_set(detector_cfg(), "images_to_compare", write_voc(tmp_path / "voc"))
    images, source = images_to_compare(cfg)
    assert [tuple(image.shape) for image in images] == [(3, 64, 80), (3, 60, 48), (3, 32, 64)]
    assert source == "images of images_to_compare, height x width 64 x 80, 60 x 48, 32 x 64"
    assert all(image.dtype == torch.uint8 for image in images)
    photo = Image.open(tmp_path / "voc" / "JPEGImages" / "im000.jpg")
    red, _, blue = (int(v) for v in images[0].flip(0)[:, 0, 0])  # INPUT.FORMAT is BGR
    assert (red, blue) == (photo.getpixel((0, 0))[0], photo.getpixel((0, 0))[2])


def test_given_photos_are_each_taken_and_at_every_size(tmp_path):
    one, five = [torch.zeros(3, 40, 40)], [torch.full((3, 40, 40), float(i)) for i in range(5)]
    assert [tuple(x.shape[1:]) for x in at_several_sizes(one)] == [(40, 40), (30, 30), (20, 32)]
    assert [int(x.amax()) for x in at_several_sizes(five)] == [0, 1, 2, 3, 4]


def test_without_the_files_it_is_noise_and_says_so(tmp_path):
    cfg = with_test_set(detector_cfg(), "images_nowhere", tmp_path / "nowhere")
    images, source = images_to_compare(cfg)
    assert len({tuple(image.shape) for image in images}) == 3
    assert source.startswith("noise and no photos (") and "nowhere" in source and "--image" in source
    cfg.DATASETS.TEST = ("never_registered",)
    assert "noise and no photos (the data set 'never_registered'" in images_to_compare(cfg)[1]
    with pytest.raises(DatasetError, match="names no data set"):
        next(first_images(cfg, ()))


def test_a_classifier_sees_its_crops(tmp_path):
    cfg = classifier_cfg()
    root = write_image_folder(tmp_path / "folder", size=(12, 20))
    cfg.DATASETS.IMAGES.images_of_crops = CfgNode({"ROOT": str(root)})
    cfg.DATASETS.TEST = ("images_of_crops",)
    register_from_config(cfg)
    images, source = images_to_compare(cfg, side=8)
    assert [tuple(image.shape) for image in images] == [(3, 8, 8)] * 3
    assert source == "images of images_of_crops, height x width 8 x 8"


@pytest.mark.skipif(find_spec("deepforest") is None, reason="the package deepforest is not installed")
def test_every_plain_file_gives_the_same_on_real_photos_of_several_sizes(tmp_path):
    cfg = with_test_set(detector_cfg(classes=1), "images_of_trees", prepare_demo_tiles(tmp_path), "test")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    torch.save({"model": build(cfg, seed=3).state_dict()}, tmp_path / "run.pth")
    export = export_student(
        cfg, str(tmp_path / "run.pth"), tmp_path / "out", formats=["pth", "pkl", "safetensors", "backbone"]
    )
    assert set(export.differences.values()) == {0.0} and len(export.differences) == 5
    assert export.images.startswith("images of images_of_trees, height x width ")
    assert export.images.count(" x ") == 4
    assert export.differences.keys() | {"card.md", "config.yaml", "export.json"} == export.sizes.keys()
