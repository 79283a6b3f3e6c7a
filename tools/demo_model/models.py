"""The three networks, in the diffusers and transformers classes that dlens reads, and their starting values."""
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from scenes import SIZE

LATENT = 12
TEXT_WIDTH = 128
TEXT_LAYERS = 8
TEXT_LENGTH = 20


def make_vae():
    """4x down, 4 latent channels. Starts near an identity: see start_vae."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
    )
    start_vae(vae)
    return vae


def start_vae(vae):
    """Resizing convolutions begin as averages, residual branches small; from torch's own start training stalls."""
    with torch.no_grad():
        for name, module in vae.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            if name.endswith((".downsamplers.0.conv", ".upsamplers.0.conv")):
                module.weight.mul_(0.2)
                channels = torch.arange(module.weight.shape[0])
                module.weight[channels, channels] += 1.0 / 9.0
            elif name.endswith(".conv2"):
                module.weight.mul_(0.1)
        # the log variance is not learned: a constant, small one
        vae.quant_conv.weight[4:].zero_()
        vae.quant_conv.bias[4:].fill_(-6.0)


def make_text(vocabulary, end):
    """CLIP's text encoder, 8 blocks. end is the id of <|endoftext|>, which is also the padding."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        hidden_act="quick_gelu",
        projection_dim=TEXT_WIDTH,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    text = CLIPTextModel(config)
    start_text(text)
    return text


def start_text(text):
    """Embeddings large beside what one block adds, so that no single block swamps the residual stream."""
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.normal_(0, 0.7)
            elif name.endswith("position_embedding.weight"):
                parameter.normal_(0, 0.3)
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.normal_(0, 0.5 * parameter.shape[1] ** -0.5 * (2 * TEXT_LAYERS) ** -0.5)
            elif name.endswith(("_proj.weight", "fc1.weight")):
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                parameter.zero_()


def make_unet():
    """Stable Diffusion's UNet made small: cross-attention at 12 x 12 (the finest level), 6 x 6 and in the middle."""
    unet = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=(32, 96, 128),
        layers_per_block=1,
        attention_head_dim=(2, 4, 4),  # heads; the name is diffusers'
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )
    with torch.no_grad():
        unet.conv_out.weight.zero_()
        unet.conv_out.bias.zero_()
        for name, module in unet.named_modules():
            if name.endswith((".conv2", ".proj_out", ".ff.net.2", ".to_out.0")):
                module.weight.mul_(0.3)
    return unet


def count(module):
    return sum(p.numel() for p in module.parameters())
