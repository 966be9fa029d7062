"""The down-sampling auto-encoder and its translator: layers written out, odd sizes, masks on the factor's grid."""

import pytest
import torch
from torch import nn

from det_distill.adapters import AutoEncoder, AutoEncoderTranslator
from det_distill.pairs import Pair
from det_distill.targets import Step

SIZES = [(1, 1), (2, 2), (5, 8), (7, 7), (6, 3), (1, 4)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_layers_equal_a_sequence_written_out():
    adapter, x, act = AutoEncoder(8), torch.randn(2, 8, 6, 5), nn.LeakyReLU(0.1)
    code = nn.Sequential(adapter.down0, act, adapter.down1, act, adapter.down2)(x)
    assert torch.equal(adapter(x), code) and code.shape == (2, 1, 3, 3)
    before = nn.Sequential(act, adapter.up0, act)(code)
    expected = adapter.up2(act(adapter.up1(before, output_size=(6, 5))))
    assert torch.equal(adapter.reconstruct(x), expected)
    own = AutoEncoderTranslator(3, (4, 2, 1))
    y = torch.randn(2, 3, 6, 5)
    assert torch.equal(own(y), nn.Sequential(own.conv0, act, own.conv1, act, own.conv2)(y))


def with_centre_taps(adapter):
    """Every kernel only copies its centre; of 1 channel throughout."""
    for name, parameter in adapter.named_parameters():
        nn.init.zeros_(parameter)
        if name.endswith("weight"):
            parameter.data[:, :, 1, 1] = 1
    return adapter


def test_one_layer_keeps_every_second_cell_and_puts_it_back():
    x = torch.tensor([[1.0, 2.0, -3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[None, None]
    adapter = with_centre_taps(AutoEncoder(1, rate=1.0, layers=1))
    assert adapter(x).tolist() == [[[[1.0, -3.0], [7.0, 9.0]]]]  # linear: nothing happens to -3
    rebuilt = torch.tensor([[1.0, 0.0, -0.3], [0.0, 0.0, 0.0], [7.0, 0.0, 9.0]])  # decoded from LeakyReLU(-3)
    torch.testing.assert_close(adapter.reconstruct(x)[0, 0], rebuilt)
    assert torch.equal(adapter(x), with_centre_taps(adapter.translator(1))(x))


def test_the_last_layers_are_linear():
    adapter, x = AutoEncoder(4), torch.randn(1, 4, 4, 4)
    for parameter in adapter.parameters():
        nn.init.zeros_(parameter)
    nn.init.constant_(adapter.down2.bias, -3.0)
    nn.init.constant_(adapter.up2.bias, -5.0)
    assert (adapter(x) == -3).all() and (adapter.reconstruct(x) == -5).all()


@pytest.mark.parametrize(
    ("channels", "rate", "layers", "widths"),
    [(96, 0.5, 3, (48, 24, 12)), (64, 0.75, 2, (48, 36)), (8, 1.0, 4, (8, 8, 8, 8)), (4, 0.25, 3, (1, 1, 1))],
)
def test_every_layer_multiplies_the_channels_by_the_rate_and_leaves_at_least_one(
    channels, rate, layers, widths
):
    adapter = AutoEncoder(channels, rate, layers=layers)
    assert adapter.widths == widths and adapter.factor_channels == widths[-1]
    assert [getattr(adapter, f"up{i}").in_channels for i in range(layers)] == list(widths[::-1])


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_maps_of_every_size_are_halved_and_come_back(size, layers):
    adapter, x = AutoEncoder(6, layers=layers, batch_norm=True).eval(), torch.randn(2, 6, *size)
    factor = adapter(x)
    assert factor.shape[-2:] == tuple((side + 1) // 2 for side in size)
    assert adapter.reconstruct(x).shape == x.shape
    own = adapter.translator(3, batch_norm=True).eval()
    assert own(torch.randn(2, 3, *size)).shape == factor.shape
    assert own.factor_channels == adapter.factor_channels and own.downsampling == adapter.downsampling == 2


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_exactly_one_layer_of_each_half_has_a_stride_and_the_halves_mirror_each_other(layers):
    adapter = AutoEncoder(4, layers=layers)
    down = [getattr(adapter, f"down{i}").stride[0] for i in range(layers)]
    up = [getattr(adapter, f"up{i}").stride[0] for i in range(layers)]
    assert down == up[::-1] and down.index(2) == layers // 2 and sum(down) == layers + 1


def test_a_code_alone_is_decoded_to_twice_its_size():
    adapter = AutoEncoder(4)
    assert adapter.decode(torch.randn(1, 1, 3, 2)).shape == (1, 4, 6, 4)
    with pytest.raises(ValueError, match="output size"):
        adapter.decode(torch.randn(1, 1, 3, 2), (9, 4))


def test_batch_norm_stands_before_each_activation_but_not_after_the_linear_layers():
    adapter = AutoEncoder(8, batch_norm=True)
    normed = {name for name, module in adapter.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert normed == {"downnorm0", "downnorm1", "upnorm0", "upnorm1"}
    assert not any("norm" in key for key in AutoEncoder(8).state_dict())


def test_training_lowers_the_error_of_a_map_of_odd_size():
    adapter, x = AutoEncoder(4, rate=1.0), torch.rand(2, 4, 7, 5)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.01)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        raw, scaled = adapter.reconstruction_loss(x)
        raw.backward()
        optimizer.step()
        values.append(scaled.item())
    assert values[-1] < 0.6 * values[0]


def test_no_images_give_a_zero_that_is_attached():
    adapter = AutoEncoder(4)
    raw, scaled = adapter.reconstruction_loss(torch.zeros(0, 4, 3, 3))
    (raw + scaled).backward()
    assert raw == 0 and adapter.up2.bias.grad is not None


class Spy(nn.Module):
    """A loss that keeps what it is called with."""

    def forward(self, student, teacher, valid=None):
        self.seen = student, teacher, valid
        return student.sum()


def test_a_pair_masks_the_padding_on_the_grid_of_the_factor():
    frozen, loss = AutoEncoder(4).freeze(), Spy()
    pair = Pair(
        "s",
        "t",
        loss,
        student_adapter=frozen.translator(3),
        teacher_adapter=frozen,
        stride=8,
        teacher_stride=8,
    )
    step = Step([(56, 40), (33, 17)])  # maps of 7 x 5 cells of 8 pixels, factors of 4 x 3 cells of 16 pixels
    pair({"s": torch.randn(2, 3, 7, 5)}, {"t": torch.randn(2, 4, 7, 5)}, step)
    student, teacher, valid = loss.seen
    assert student.shape == teacher.shape == (2, 1, 4, 3) and valid.shape == (2, 1, 4, 3)
    assert valid[0].all()
    assert valid[1, 0].tolist() == [[True, True, False]] * 3 + [
        [False] * 3
    ]  # 33 pixels: 3 rows, 17: 2 columns


def test_two_maps_that_differ_in_padding_are_cropped_to_their_common_factor():
    frozen, loss = AutoEncoder(4).freeze(), Spy()
    pair = Pair("s", "t", loss, student_adapter=frozen.translator(3), teacher_adapter=frozen)
    pair({"s": torch.randn(1, 3, 37, 50)}, {"t": torch.randn(1, 4, 38, 51)})
    assert loss.seen[0].shape == loss.seen[1].shape == (1, 1, 19, 25)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"layers": 0}])
def test_a_rate_or_a_number_of_layers_of_zero_is_refused(wrong):
    with pytest.raises(ValueError, match="rate must be above 0 and layers at least 1"):
        AutoEncoder(8, **wrong)
    with pytest.raises(ValueError, match="at least 1 layer"):
        AutoEncoderTranslator(8, ())
