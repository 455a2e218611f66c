"""ref.trn and hyp.trn, transcripts for NIST's sclite: `words (SPEAKER-KEY)`, one line per utterance.

    sclite -s -e utf-8 -i spu_id -r ref.trn trn -h hyp.trn trn -o rsum stdout

gives our counts. The words are normalised. Characters that mean something to sclite are escaped as in quoted-printable
(RFC 2045), =7B for {, so that different words stay different:

| characters | meaning in sclite |
|---|---|
| `{ a / b }`, `@` | alternatives, the empty alternative |
| `;` in a word, `\\\\` | end of the word, escape of the next character |
| `;;` or `*` at the beginning of a line | comment |
| `( )` | optional word, or the utterance's id |
| a control character | end of the line or file |

`-s` makes sclite case-sensitive, as the normaliser may be. Ids keep only ASCII letters, digits and `.`, and the key
also `-` and `_`; the speaker is the part before the first `-`. sclite weighs a substitution 4 and the other errors 3,
so in utterances with many errors its alignment may have one more than the minimum."""

import re
from collections.abc import Callable, Iterable

HOSTILE = re.compile(r"[{}/@;\\*()=\x00-\x1f\x7f\ud800-\udfff]")
NOT_IN_A_SPEAKER = re.compile(r"[^A-Za-z0-9.]")
NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._-]")
NO_SPEAKER = "none"


def trn(utterances: Iterable[tuple[str, str, str]], spelt: Callable[[str], str]) -> bytes:
    """The content of a file for (speaker, key, text) in this order; `spelt` is the normaliser."""
    return "".join(f"{words(spelt(text))} ({identity(s, key)})\n".lstrip(" ") for s, key, text in utterances).encode()


def words(text: str) -> str:
    return HOSTILE.sub(_quoted, text)


def identity(speaker: str, key: str) -> str:
    return f"{NOT_IN_A_SPEAKER.sub(_quoted, speaker) or NO_SPEAKER}-{NOT_IN_A_KEY.sub(_quoted, key)}"


def _quoted(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
