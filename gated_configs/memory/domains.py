"""What a family is for: music, speech, pictures, text. Names only; nothing is imported."""

from __future__ import annotations

from typing import Final

CODECS: Final = frozenset(
    {
        "encodec",
        "dac",
        "mimi",
        "xcodec",
        "xcodec2",
        "higgs_audio_v2_tokenizer",
        "neucodec",
        "vibevoice_acoustic_tokenizer",
        "pocket_tts_audio_tokenizer",
    }
)
VOCODERS: Final = frozenset({"univnet", "hifigan"})
_TEXT_TO_MUSIC: Final = frozenset(
    {"musicgen", "musicgen_melody", "musicgen_decoder", "musicgen_melody_decoder"}
)
_TEXT_TO_SPEECH: Final = frozenset(
    {
        "bark",
        "vits",
        "speecht5",
        "csm",
        "dia",
        "fastspeech2_conformer",
        "higgs_audio_v2",
        "pocket_tts",
        "vibevoice",
        "gradium_phonon_tts",
    }
)
_SPEECH: Final = frozenset(
    {
        "whisper",
        "speech_to_text",
        "moonshine",
        "wav2vec2",
        "wav2vec2-bert",
        "wav2vec2-conformer",
        "hubert",
        "wavlm",
        "sew",
        "sew-d",
        "unispeech",
        "unispeech-sat",
        "data2vec-audio",
        "parakeet_ctc",
        "kyutai_speech_to_text",
        "seamless_m4t",
        "seamless_m4t_v2",
        "speech-encoder-decoder",
        "audio-spectrogram-transformer",
    }
)
_VISION: Final = frozenset(
    {
        "vit",
        "deit",
        "beit",
        "swin",
        "swinv2",
        "convnext",
        "convnextv2",
        "resnet",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "vit_mae",
        "vit_msn",
        "levit",
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilevit",
        "mobilevitv2",
        "segformer",
        "detr",
        "yolos",
        "regnet",
        "efficientnet",
        "poolformer",
        "cvt",
        "pvt",
        "hiera",
        "ijepa",
        "dpt",
        "clip_vision_model",
        "siglip_vision_model",
        "data2vec-vision",
        "bit",
        "focalnet",
        "swiftformer",
        "sam",
        "rt_detr",
    }
)


def domain_of(family: str, class_name: str, model_type: str) -> str:
    """What the model makes or reads, in a word or two."""
    if family in _TEXT_TO_MUSIC:
        return "text-to-music"
    if family in CODECS or family in VOCODERS:
        return "audio"
    if family in _TEXT_TO_SPEECH:
        return "text-to-speech"
    if family in _SPEECH:
        return "speech"
    if family in _VISION or "ForImage" in class_name:
        return "vision"
    if model_type == "diffusion":
        return "text" if "gemma" in family else "text-to-image"
    return "multimodal" if model_type == "multimodal" else "text"
