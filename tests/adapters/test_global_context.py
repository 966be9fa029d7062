"""`GlobalContext`: the block by hand, its first values, and what it does not depend on."""

import pytest
import torch
import torch.nn.functional as F

from det_distill.adapters import GlobalContext


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def block():
    block = GlobalContext(6)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    return block


def test_a_new_block_changes_nothing_and_can_learn():
    block, x = GlobalContext(6), torch.randn(2, 6, 3, 4)
    y = block(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert block.channel_add_conv[3].weight.grad.any()


def test_the_block_equals_a_loop_over_cells(block):
    x = torch.randn(1, 6, 2, 3)
    cells = [x[0, :, i, j] for i in range(2) for j in range(3)]
    mask, (first, norm, _, last) = block.conv_mask, block.channel_add_conv
    powers = [torch.exp(mask.weight.flatten() @ cell + mask.bias) for cell in cells]
    context = sum(p / sum(powers) * cell for p, cell in zip(powers, cells, strict=True))
    hidden = first.weight.flatten(1) @ context + first.bias
    hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + norm.eps).sqrt()
    hidden = F.relu(hidden * norm.weight.flatten() + norm.bias.flatten())
    added = last.weight.flatten(1) @ hidden + last.bias
    torch.testing.assert_close(block(x), x + added.view(1, 6, 1, 1), rtol=1e-4, atol=1e-5)


def test_every_cell_gets_the_same_and_the_order_of_cells_does_not_matter(block):
    x = torch.randn(2, 6, 3, 4)
    added = block(x) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))
    torch.testing.assert_close(block(x.flip(2, 3)), block(x).flip(2, 3))


def test_a_map_of_one_channel_cannot_be_halved():
    with pytest.raises(ValueError, match="at least 2, not 1"):
        GlobalContext(1)
