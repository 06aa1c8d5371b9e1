"""Architecture of the nano base: a small Stable-Diffusion-type model, 22 MB in fp16."""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
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


def nano_unet(resolution: int = 64, latent_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """6.9 M parameters; attention at the coarsest level only, where it is cheap on a CPU.

    The network itself adds the pooled text to the time embedding (`addition_embed_type="text"`), so its inputs are
    sample, timestep and encoder_hidden_states, as in plain pipelines.
    """
    return UNet2DConditionModel(
        sample_size=resolution // DOWNSAMPLING,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


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
