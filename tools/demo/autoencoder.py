"""Picture <-> latent: a small convolutional encoder and the `taesd` decoder, trained together on the data.

A picture [3,128,128] in [0, 1] becomes a latent z [4,16,16] of zero mean and unit variance per channel. The
server denormalises a latent with the Stable Diffusion constants and multiplies by 0.18215 before it calls the
decoder, so the decoder here is trained behind exactly that arithmetic.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

MEAN = (0.86488, -0.27787343, 0.21616915, 0.3738409)
STD = (4.85503674, 5.31922414, 3.93725398, 3.9870003)
SCALE = 0.18215


class Clamp(nn.Module):
    def forward(self, x):
        return 3 * torch.tanh(x / 3)


class Block(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                  nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x):
        return F.relu(self.conv(x) + x)


def taesd_decoder(width=64):
    layers = [Clamp(), nn.Conv2d(4, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [Block(width), Block(width), Block(width), nn.Upsample(scale_factor=2),
                   nn.Conv2d(width, width, 3, padding=1, bias=False)]
    layers += [Block(width), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Convolutions to 1/8 of the side, on top of the mean colour of each 8x8 square in three of the channels.

    The mean colours (as lightness and two colour differences) keep the latent picture-like and save the training
    from having to find the colour axes first.
    """

    def __init__(self):
        super().__init__()
        self.detail = detail_encoder()
        self.colour = nn.Conv2d(3, 4, 1, bias=False)

    def init_colour(self):
        axes = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2], [0, 0, 0]])
        self.colour.weight.data.copy_((axes * torch.tensor([[1.0], [2], [1.2], [0]]))[:, :, None, None])
        self.detail[-1].weight.data[:3].mul_(0.3)

    def forward(self, x):
        return self.detail(x) + self.colour(F.avg_pool2d(x, 8))


def detail_encoder():
    return nn.Sequential(nn.Conv2d(3, 32, 4, stride=2, padding=1), nn.ReLU(), Block(32),
                         nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU(), Block(64),
                         nn.Conv2d(64, 96, 4, stride=2, padding=1), nn.ReLU(), Block(96), Block(96),
                         nn.Conv2d(96, 4, 3, padding=1))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), taesd_decoder()
        # The batch norm makes z normal per channel; its running statistics are the ones used afterwards.
        self.norm = nn.BatchNorm2d(4, affine=False, momentum=0.02)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 4, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 4, 1, 1), persistent=False)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, Block):
                m.conv[4].weight.data.mul_(0.2)
        self.encoder.init_colour()

    def encode(self, picture):
        return self.norm(self.encoder(picture * 2 - 1).float())

    def decode(self, z):
        return self.decoder((z * self.std + self.mean) * SCALE)


def picture_loss(y, x):
    """L1 of the picture plus L1 of its differences along both axes, which keeps edges."""
    dy, dx = y[..., 1:, :] - y[..., :-1, :], y[..., 1:] - y[..., :-1]
    ty, tx = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    return F.l1_loss(y, x) + F.l1_loss(dy, ty) + F.l1_loss(dx, tx)
