"""A ResNet-18 Faster R-CNN that imitates a ResNet-50 one, as a LazyConfig: the config is the call.

It runs under detectron2's own, unmodified tools/lazyconfig_train_net.py, on any folder in PASCAL VOC layout:

    python lazyconfig_train_net.py --config-file faster_rcnn_R18_FPN_from_R50.py \
        dataloader.train.dataset.names.root=datasets/VOC2007 dataloader.test.dataset.names.root=datasets/VOC2007 \
        model.student.roi_heads.num_classes=20 \
        model.teachers.r50.config=teacher.yaml model.teachers.r50.weights=teacher.pth

Without the last line the teacher is the R50-FPN of detectron2's model zoo (COCO classes; the pairs do not touch them).
Pairs are named as in YAML, with the keys of DISTILL.PAIRS, each of which can be overridden: model.pairs.fpn.WEIGHT=2.
Not in this form: the hashes' biases are not estimated before training (detectron2's tool has no hook for it), so
hashing stands beside an L2 term, with a zero bias, as in the authors' detection code.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from det_distill import Distiller, Teachers
from det_distill.config import load_teacher
from det_distill.data import register_voc
from det_distill.evaluation import DetectionEvaluator

student = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
student.backbone.bottom_up.stages.depth = 18
student.backbone.bottom_up.stages.pop("stride_in_1x1")
student.backbone.bottom_up.stages.norm = "BN"
student.backbone.bottom_up.stem.norm = "BN"
student.roi_heads.num_classes = 20
student.roi_heads.box_head.fc_dims = [1024, 1024]
student.roi_heads.box_head.input_shape = L(ShapeSpec)(channels=256, height=7, width=7)
student.roi_heads.box_predictor.input_shape = L(ShapeSpec)(channels=1024)
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    student.roi_heads.pop(key)

model = L(Distiller)(
    student=student,
    teachers=L(Teachers)(
        r50=L(load_teacher)(config="COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", weights="")
    ),
    pairs=dict(
        fpn=dict(METHOD="FeatureMimicking", AT=["backbone:p3", "backbone:p4"], WEIGHT=1.0),
        box=dict(
            METHOD="FeatureMimicking",
            AT="roi_heads.box_head",
            LSH=True,
            BIAS="zero",
            WEIGHT=7.0,
            WARMUP=500,
        ),
    ),
)

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.use_instance_mask = False
dataloader.train.dataset.names = L(register_voc)(
    name="lazy_train", root="datasets/VOC2007", split="trainval", classes=()
)
dataloader.test.dataset.names = L(register_voc)(
    name="lazy_test", root="datasets/VOC2007", split="test", classes=()
)
dataloader.evaluator = L(DetectionEvaluator)(dataset_name="lazy_test")

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.01
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
train = model_zoo.get_config("common/train.py").train
train.max_iter = 18000
train.output_dir = "output/lazy"
