"""VideoMAE's masked autoencoder: encode the visible tokens, predict the pixels of the hidden.

Letters: B clips, C = 3 channels, T frames, H W pixels, N = t * h * w tokens, K visible tokens,
M = N - K hidden tokens, D width, P = 1536 values of a token. A mask is `[B, N]` bool, True where
the token is hidden, with the same count in every row.

    video -> tokens -> visible -> encoder -> [visible, hidden] -> decoder -> loss on hidden
"""

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mgm_dali.clips.grid import token_grid
from mgm_dali.config import ModelConfig
from mgm_dali.models.block import NORM_EPSILON, make_blocks, run_block
from mgm_dali.models.linear import Linear
from mgm_dali.models.patches import (
    TOKEN_VALUES,
    normalised_pixels,
    patchify,
    split_tokens,
    take_tokens,
)
from mgm_dali.models.timesformer import start_without_time
from mgm_dali.models.vit import (
    BACKBONES,
    TokenTrunk,
    add_position,
    check_video,
    fixed_positions,
)

__all__ = ["Autoencoder", "Decoder", "Encoder", "build_autoencoder"]


class Encoder(TokenTrunk):
    """The trunk and a last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(BACKBONES[config.name].width, eps=NORM_EPSILON)
        self.apply(_initialise_linear)
        start_without_time(self.blocks)

    def forward(self, patches: Tensor, index: Tensor | None = None) -> Tensor:
        """`[B, N, P]` patches, `[B, K]` tokens to encode (None: all), to `[B, K, D]`."""
        encoded: Tensor = self.norm(self.encode_tokens(patches, index))
        return encoded


class Decoder(nn.Module):
    """Narrow blocks over all tokens and a linear map of the hidden ones to pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = BACKBONES[config.name]
        self.checkpoint_activations = False
        self.blocks = make_blocks(
            config.decoder_depth, size.decoder_width, size.decoder_heads, config.drop_path
        )
        self.norm = nn.LayerNorm(size.decoder_width, eps=NORM_EPSILON)
        self.head = Linear(size.decoder_width, TOKEN_VALUES)
        self.apply(_initialise_linear)

    def forward(self, x: Tensor, num_hidden: int) -> Tensor:
        """`[B, N, D]`, hidden tokens last, to `[B, M, P]`."""
        *first_blocks, last_block = self.blocks
        for block in first_blocks:
            x = run_block(block, x, checkpointed=self.checkpoint_activations)
        # Nobody reads the visible tokens after the last block: there they are keys and values only.
        x = run_block(last_block, x, num_hidden, checkpointed=self.checkpoint_activations)
        predicted: Tensor = self.head(self.norm(x))
        return predicted


class Autoencoder(nn.Module):
    """`autoencoder(video, mask)` is the loss; `reconstruct` and `encode` show what it has learnt.

    Videos are `[B, C, T, H, W]`, RGB normalised with the ImageNet mean and deviation. All methods
    raise ValueError for a video or mask that does not fit `grid`, or rows that hide unequal
    counts. On a GPU pass the counts, such as `num_hidden` of a row: counting them costs a sync.
    """

    decoder_position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = BACKBONES[config.name]
        self.config = config
        self.grid = token_grid(config)
        table = fixed_positions(config, size.decoder_width)
        self.register_buffer("decoder_position", table, persistent=False)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.encoder_to_decoder = Linear(size.width, size.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.decoder_width))
        trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self,
        video: Tensor,
        mask: Tensor,
        num_hidden: int | None = None,
        decoded: Tensor | None = None,
        num_decoded: int | None = None,
    ) -> Tensor:
        """Mean squared error over the hidden tokens' normalised pixels: a float32 scalar.

        With `decoded` `[B, N]` (True = predicted, some of the hidden ones, `num_decoded` in every
        row) the decoder is given those tokens only, and the loss is over them: decoder masking
        (VideoMAEv2), less work for the same encoder.
        """
        patches, visible, hidden = self._split(video, mask, num_hidden)
        if decoded is not None:
            self._require_tokens("decoded", decoded, len(video))
            if num_decoded is None and not bool((decoded.any(1) & (decoded <= mask).all(1)).all()):
                raise ValueError("decoded: of each clip one token or more, and only hidden ones")
            _, hidden = split_tokens(decoded, num_decoded)
        predicted = self._predict(patches, visible, hidden)
        with torch.no_grad():
            target = normalised_pixels(take_tokens(patches, hidden))
        return F.mse_loss(predicted.float(), target)

    def reconstruct(self, video: Tensor, mask: Tensor, num_hidden: int | None = None) -> Tensor:
        """The predicted tokens `[B, M, P]` float32: pixels normalised by `normalised_pixels`."""
        return self._predict(*self._split(video, mask, num_hidden)).float()

    def encode(
        self, video: Tensor, mask: Tensor | None = None, num_hidden: int | None = None
    ) -> Tensor:
        """The encoder's output `[B, K, D]` for the visible tokens in index order (None: all)."""
        if mask is None:
            encoded: Tensor = self.encoder(self._cut(video))
        else:
            patches, visible, _ = self._split(video, mask, num_hidden)
            encoded = self.encoder(patches, visible)
        return encoded

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that must not decay."""
        return {"mask_token", "encoder.pos_embed", "encoder.time_embed"}

    def _predict(self, patches: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        encoded = self.encoder_to_decoder(self.encoder(patches, visible))
        tokens = torch.cat(
            [
                add_position(encoded, self.decoder_position[visible]),
                add_position(self.mask_token, self.decoder_position[hidden]),
            ],
            dim=1,
        )
        predicted: Tensor = self.decoder(tokens, num_hidden=hidden.shape[1])
        return predicted

    def _split(
        self, video: Tensor, mask: Tensor, num_hidden: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        patches = self._cut(video)
        self._require_tokens("mask", mask, len(video))
        return patches, *split_tokens(mask, num_hidden)

    def _require_tokens(self, name: str, mask: Tensor, batch: int) -> None:
        expected = [batch, self.grid.num_tokens]
        if mask.dtype != torch.bool or list(mask.shape) != expected:
            raise ValueError(
                f"{name}: expected bool {expected} for the grid {self.grid}, "
                f"found {mask.dtype} {list(mask.shape)}"
            )

    def _cut(self, video: Tensor) -> Tensor:
        return patchify(check_video(video, self.config))


def build_autoencoder(config: ModelConfig) -> Autoencoder:
    """A new autoencoder of this size; its weights follow from torch's global random state."""
    return Autoencoder(config)


def _initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform as in VideoMAE's pretraining; the tubelet embedding keeps torch's default."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
