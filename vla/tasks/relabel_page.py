"""What relabelling found, to look at: one self-contained HTML page with frames of examples."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.evaluation.page import PAGE, STYLE
from vla.tasks.relabel import Relabelling

EXAMPLES = 4  # of each kind of outcome
FRAMES = 4  # of each example, the first and the last among them
SIZE = 128  # pixels a side, about


def write_page(dataset: EpisodeDataset, found: Relabelling, path: Path) -> None:
    """The page about the data set's segments as they are now."""
    segments = Segments.load(dataset)
    added = np.flatnonzero(segments.source == "hindsight")
    failed = np.isin(segments.episode, segments.episode[segments.recorded & ~segments.success])
    body = [_headline(dataset, found)]
    for family, count in found.families.items():
        rows = added[segments.task[added] == family]
        # Failures first: they were worth nothing before.
        rows = rows[np.argsort(~failed[rows], kind="stable")][:EXAMPLES]
        examples = "".join(_example(dataset, segments, row) for row in rows)
        body.append(f"<section><h2>{escape(family)}</h2><p>{count} segments</p>{examples}</section>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.format(title=escape(f"{dataset.root.name}, relabelled"), style=STYLE, body="\n".join(body)))


def _headline(dataset: EpisodeDataset, found: Relabelling) -> str:
    failures = f"{found.failures_used} of {found.failures} failures achieved something else." if found.failures else ""
    return f"""<header><p class="eyebrow">{escape(str(dataset.root))}</p>
<p class="headline">{found.segments}</p>
<p class="lead">segments show how to do something that the {found.episodes} episodes did, whatever they were told.
{failures}</p></header>"""


def _example(dataset: EpisodeDataset, segments: Segments, row: int) -> str:
    start, last = segments.start[row], segments.stop[row] - 1
    frames = np.linspace(start, last, FRAMES).round().astype(np.int64)
    pictures = "".join(_picture(picture) for picture in dataset.frames(next(iter(dataset.cameras)), frames))
    reached = "done" if segments.success[segments.episode == segments.episode[row]][0] else "missed"
    return f"""<figure><div class="clips">{pictures}</div><figcaption><b>{escape(segments.instruction[row])}</b><br>
<small>episode {segments.episode[row]}, frames {start}:{last + 1}; told to
&ldquo;{escape(segments.original_instruction[row])}&rdquo; ({reached})</small></figcaption></figure>"""


def _picture(pixels: np.ndarray) -> str:
    """An image tag for `pixels` [H, W, 3]."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIZE, SIZE))
    image.save(buffer, "JPEG", quality=85)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
