"""ref.trn and hyp.trn, the transcripts as NIST's sclite reads them: `words (SPEAKER-KEY)`, a line an utterance.

    sclite -s -e utf-8 -i spu_id -r ref.trn trn -h hyp.trn trn -o rsum stdout

then counts what we count. The words are those after the normaliser. What sclite would take for something else is
written as in quoted-printable (RFC 2045), =7B for {, so that different words stay different:

| sclite takes | for |
|---|---|
| `{ a / b }`, `@` | alternatives, and the empty one |
| `;` in a word, `\\\\` | the end of the word, the next character as it is |
| `;;` or `*` at the beginning of a line | a comment |
| `( )` | a word that may be left out, or the utterance's id |
| a control character | the end of a line, of the file |

`-s` keeps case apart where the normaliser does. In an id only ASCII letters, digits, `.`, and in the key `-` and `_`
stay; the speaker is what comes before the first `-`. sclite weighs a substitution 4 and the others 3, so its alignment
can have an error more than the fewest possible, in utterances with many."""

import re
from collections.abc import Callable, Iterable

HOSTILE = re.compile(r"[{}/@;\\*()=\x00-\x1f\x7f\ud800-\udfff]")
NOT_IN_A_SPEAKER = re.compile(r"[^A-Za-z0-9.]")
NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9._-]")
NO_SPEAKER = "none"


def trn(utterances: Iterable[tuple[str, str, str]], spelt: Callable[[str], str]) -> bytes:
    """The file of (speaker, key, text) in their order; `spelt` is the normaliser."""
    return "".join(f"{words(spelt(text))} ({identity(s, key)})\n".lstrip(" ") for s, key, text in utterances).encode()


def words(text: str) -> str:
    return HOSTILE.sub(_quoted, text)


def identity(speaker: str, key: str) -> str:
    return f"{NOT_IN_A_SPEAKER.sub(_quoted, speaker) or NO_SPEAKER}-{NOT_IN_A_KEY.sub(_quoted, key)}"


def _quoted(found: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
