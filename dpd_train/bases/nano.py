"""Architecture of the nano base: a small Stable-Diffusion-type model, 22 MB in fp16."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LATENT_CHANNELS = 4
DOWNSAMPLING = 4
TEXT_WIDTH = 128


def nano_vae(resolution: int = 64, latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """f=4, 0.6 M + 1.0 M parameters, no attention."""
    widths = (32, 64, 96)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=resolution,
        scaling_factor=1.0,
    )


def nano_unet(
    resolution: int = 64, latent_channels: int = LATENT_CHANNELS, attention_levels: int = 1
) -> UNet2DConditionModel:
    """6.9 M parameters with one level of attention, 7.5 M with two.

    The network itself adds the pooled text to the time embedding (`addition_embed_type="text"`), so its inputs are
    sample, timestep and encoder_hidden_states, as in plain pipelines.

    Args:
        attention_levels: the coarsest levels that have attention. At 64 px one is 4 × 4 positions, where attention is
            cheap on a CPU; two add 8 × 8, for a step that takes 1.15 times as long; three add 16 × 16.
    """
    down = tuple("CrossAttnDownBlock2D" if level < attention_levels else "DownBlock2D" for level in (2, 1, 0))
    return UNet2DConditionModel(
        sample_size=resolution // DOWNSAMPLING,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=down,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def with_attention(unet: UNet2DConditionModel, attention_levels: int) -> UNet2DConditionModel:
    """A nano UNet with attention at more levels, which gives the same output as `unet` until it is trained.

    Raises:
        ValueError: `unet` is no nano UNet, or has attention at other levels.
    """
    grown = nano_unet(unet.config.sample_size * DOWNSAMPLING, unet.config.in_channels, attention_levels)
    missing, unexpected = grown.load_state_dict(unet.state_dict(), strict=False)
    if unexpected or any(".attentions." not in name for name in missing):
        raise ValueError("it is no nano UNet with attention at fewer levels")
    for name, module in grown.named_modules():
        if f"{name}.proj_out.weight" in missing:
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    return grown


def nano_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two CLIP layers of width 128."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=int(tokenizer.model_max_length),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def nano_scheduler() -> DDIMScheduler:
    """v-prediction on the cosine schedule (Nichol & Dhariwal 2021), whose last step is almost pure noise."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused with trailing spacing; plain pipelines warn about 0
    )
