"""Train the tiny HuBERT (2.2 M parameters): `python -m recipes.stand_in.encoder --out ... --work ...`.

1. Speak training sentences and word strings in the training voices (`write_speech`): 12.5 hours, each phoneme
   with its time, kept in the work folder.
2. Train on augmented batches: some frames are masked, and every frame must name its phoneme. That is HuBERT's own
   recipe (arXiv 2106.07447) with the synthesiser's phonemes as the units, so no clustering is needed. CTC over the
   letters is added, which alone would stay on the all-blank plateau for long, and teaches the spelling.
3. Heavy augmentation first, mostly light in the last third. The heads are dropped from what is exported.
"""

import argparse
from pathlib import Path

import torch
from jiwer import cer, wer
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from data_prep.synth import sentences
from recipes.stand_in.speech import BATCH, PHONEMES, Batch, Speech, normalised, write_speech
from recipes.stand_in.training import Schedule, train

UTTERANCES, DEV_UTTERANCES = 20_000, 100
BLANK = 0
CTC_FROM = 0.1  # of the training; before that it counts 0.3, while the phonemes lead off the plateau


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Train the tiny HuBERT.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model in save_pretrained format")
    parser.add_argument("--work", type=Path, required=True, help="folder for the speech and the state to resume from")
    parser.add_argument("--steps", type=int, default=7000, help=f"updates of {BATCH} utterances")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    speech = Speech(write_speech(args.work / "speech", "train", UTTERANCES, args.threads))
    dev = Speech(write_speech(args.work / "speech", "dev", DEV_UTTERANCES, args.threads))
    model = Learner(HubertModel(config()))
    millions = sum(p.numel() for p in model.hubert.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, {speech.hours:.1f} h of speech", flush=True)

    def export_and_report() -> None:
        export(model.hubert, args.out)
        print(model.report(dev), flush=True)

    train(
        model,
        lambda step: model.loss(speech.batch(step, step / args.steps), 0.3 if step < CTC_FROM * args.steps else 1.0),
        Schedule(steps=args.steps, peak=1e-3, last=2e-5, warmup=300),
        args.work / "encoder.safetensors",
        export_and_report,
    )


def config() -> HubertConfig:
    """Width 192, 4 layers, 4 heads, feed-forward 768; seven narrow convolutions, 20 ms to a frame."""
    return HubertConfig(
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=768,
        conv_dim=(48, 64, 96, 128, 160, 192, 192),
        feat_extract_norm="group",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=8,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.2,
        mask_time_length=8,
    )


class Learner(torch.nn.Module):
    """The encoder under the two heads that teach it: phonemes per frame, and letters by CTC."""

    def __init__(self, hubert: HubertModel):
        super().__init__()
        self.hubert = hubert
        self.phonemes = torch.nn.Linear(hubert.config.hidden_size, len(PHONEMES))
        self.letters = torch.nn.Linear(hubert.config.hidden_size, 1 + len(sentences.ALPHABET))

    def loss(self, batch: Batch, ctc_weight: float) -> torch.Tensor:
        """Cross-entropy of the phonemes (mean over frames) plus CTC of the letters (mean over letters and texts)."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.hubert(batch.waves).last_hidden_state  # [B, T, D]
            named, spelled = self.phonemes(hidden).float(), self.letters(hidden).float()
        framewise = torch.nn.functional.cross_entropy(named.transpose(1, 2), batch.units)
        lengths = torch.full((len(batch.texts),), hidden.shape[1])
        targets = torch.tensor([1 + sentences.ALPHABET.index(letter) for text in batch.texts for letter in text])
        letters = torch.tensor([len(text) for text in batch.texts])
        ctc = torch.nn.functional.ctc_loss(
            spelled.log_softmax(-1).transpose(0, 1), targets, lengths, letters, blank=BLANK, zero_infinity=True
        )
        return framewise + ctc_weight * ctc

    @torch.no_grad()
    def report(self, speech: "Speech") -> str:
        """How well the letters head alone reads clean speech, without any language model."""
        self.eval()
        heard = []
        for index in range(len(speech.rows)):
            hidden = self.hubert(torch.from_numpy(normalised(speech.wave(index)))[None]).last_hidden_state
            best = self.letters(hidden)[0].argmax(-1).unique_consecutive()
            heard.append("".join(sentences.ALPHABET[i - 1] for i in best if i != BLANK) or " ")
        said = [row["text"] for row in speech.rows]
        return f"new voices, letters head: WER {100 * wer(said, heard):.1f} % CER {100 * cer(said, heard):.1f} %"


def export(hubert: HubertModel, out: Path) -> None:
    """Write the encoder (fp16 safetensors) and its feature extractor's settings to `out`."""
    half = HubertModel(hubert.config).half()
    half.load_state_dict(hubert.state_dict())
    half.save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(out)


if __name__ == "__main__":
    main()
