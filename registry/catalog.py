"""The models this release knows, as plain data: what each can do and under which licence.

It seeds the `ModelConfig` table and knows nothing of Django. Parameter counts are those of the published checkpoints.
"""

from __future__ import annotations

from typing import Any, Final

CC_BY_NC: Final = "CC-BY-NC 4.0"
CC_BY_NC_URL: Final = "https://creativecommons.org/licenses/by-nc/4.0/"
APACHE: Final = "Apache-2.0"
APACHE_URL: Final = "https://www.apache.org/licenses/LICENSE-2.0"

DEMO_MODEL_ID: Final = "musicgen-demo"
DEMO_HF_ID: Final = "musicgen-studio/musicgen-demo"
#: Relative paths are read from the folder that holds manage.py: this checkpoint ships with the studio.
DEMO_FOLDER: Final = "registry/checkpoints/musicgen-demo"

#: How long takes may get that are made in overlapping windows.
EXTENDED_SECONDS: Final = 120

#: The three widths in which Meta's checkpoints come.
_SIZES: Final[dict[str, dict[str, int]]] = {
    "small": {"hidden_size": 1024, "layers": 24, "ffn_dim": 4096, "heads": 16},
    "medium": {"hidden_size": 1536, "layers": 48, "ffn_dim": 6144, "heads": 24},
    "large": {"hidden_size": 2048, "layers": 48, "ffn_dim": 8192, "heads": 32},
}


def _official(
    name: str,
    display_name: str,
    description: str,
    *,
    size: str,
    memory_gb: int,
    recommended: int,
    parameters: int | None,
    stereo: bool = False,
    melody: bool = False,
) -> dict[str, Any]:
    """One of Meta's checkpoints: they differ in size, channels and conditioning and share all else."""
    return {
        "id": name,
        "display_name": display_name,
        "hf_model_id": f"facebook/{name}",
        "local_path": "",
        "max_duration_seconds": 30,
        "max_extended_seconds": EXTENDED_SECONDS,
        "recommended_duration_seconds": recommended,
        "tokens_per_second": 50,
        "vram_requirement_gb": memory_gb,
        "sample_rate": 32000,
        "channels": 2 if stereo else 1,
        "codebooks": 8 if stereo else 4,
        "parameters": parameters,
        "family": "musicgen_melody" if melody else "musicgen",
        **_SIZES[size],
        "text_width": 768,
        "description": description,
        "licence": CC_BY_NC,
        "licence_url": CC_BY_NC_URL,
        "is_playable": True,
        "unplayable_reason": "",
    }


_ENTRIES: Final[list[dict[str, Any]]] = [
    {
        "id": DEMO_MODEL_ID,
        "display_name": "MusicGen Demo",
        "hf_model_id": DEMO_HF_ID,
        "local_path": DEMO_FOLDER,
        "max_duration_seconds": 20,
        "max_extended_seconds": EXTENDED_SECONDS,
        "recommended_duration_seconds": 8,
        "tokens_per_second": 50,
        "vram_requirement_gb": 1,
        "sample_rate": 16000,
        "channels": 1,
        "codebooks": 4,
        "parameters": None,
        "family": "musicgen",
        "hidden_size": 256,
        "layers": 6,
        "ffn_dim": 640,
        "heads": 8,
        "text_width": 128,
        "description": "Tiny model that ships with the studio, to try everything without a download",
        "licence": APACHE,
        "licence_url": APACHE_URL,
        "is_playable": True,
        "unplayable_reason": "",
    },
    _official(
        "musicgen-small",
        "MusicGen Small",
        "Fast generation, good for prototyping",
        size="small",
        memory_gb=4,
        recommended=10,
        parameters=586_884_674,
    ),
    _official(
        "musicgen-medium",
        "MusicGen Medium",
        "Balanced quality and speed",
        size="medium",
        memory_gb=8,
        recommended=15,
        parameters=2_005_251_138,
    ),
    _official(
        "musicgen-large",
        "MusicGen Large",
        "Highest quality, requires more VRAM",
        size="large",
        memory_gb=16,
        recommended=10,
        parameters=3_423_470_146,
    ),
    _official(
        "musicgen-stereo-small",
        "MusicGen Stereo Small",
        "Stereo, fast generation",
        size="small",
        memory_gb=5,
        recommended=10,
        parameters=603_665_986,
        stereo=True,
    ),
    _official(
        "musicgen-stereo-medium",
        "MusicGen Stereo Medium",
        "Stereo, balanced quality and speed",
        size="medium",
        memory_gb=9,
        recommended=15,
        parameters=2_030_423_106,
        stereo=True,
    ),
    _official(
        "musicgen-stereo-large",
        "MusicGen Stereo Large",
        "Stereo, highest quality, requires more VRAM",
        size="large",
        memory_gb=16,
        recommended=10,
        parameters=3_457_032_770,
        stereo=True,
    ),
    _official(
        "musicgen-melody",
        "MusicGen Melody",
        "Plays from words, and follows the melody of a reference clip",
        size="medium",
        memory_gb=8,
        recommended=15,
        parameters=1_552_138_818,
        melody=True,
    ),
    _official(
        "musicgen-melody-large",
        "MusicGen Melody Large",
        "Plays from words, and follows the melody of a reference clip, highest quality",
        size="large",
        memory_gb=16,
        recommended=10,
        parameters=2_617_993_794,
        melody=True,
    ),
    _official(
        "musicgen-stereo-melody",
        "MusicGen Stereo Melody",
        "Stereo, plays from words, and follows the melody of a reference clip",
        size="medium",
        memory_gb=8,
        recommended=15,
        parameters=None,
        stereo=True,
        melody=True,
    ),
    _official(
        "musicgen-stereo-melody-large",
        "MusicGen Stereo Melody Large",
        "Stereo, plays from words, and follows the melody of a reference clip, highest quality",
        size="large",
        memory_gb=16,
        recommended=10,
        parameters=None,
        stereo=True,
        melody=True,
    ),
]

#: The catalogue by Hugging Face id, in the order in which people see it.
MODEL_CONFIGS: Final[dict[str, dict[str, Any]]] = {entry["hf_model_id"]: entry for entry in _ENTRIES}
