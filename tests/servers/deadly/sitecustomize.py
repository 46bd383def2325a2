"""Makes a Python process die when it opens an image whose file ends with `DEADLY`, as a fault in a decoder can."""

import os
import signal
from typing import Any

from PIL import ImageFile

_open = ImageFile.ImageFile.__init__


def _open_or_die(image: ImageFile.ImageFile, fp: Any = None, filename: Any = None) -> None:
    _open(image, fp, filename)
    if hasattr(fp, "seek"):
        place = fp.tell()
        fp.seek(0)
        content = fp.read()
        fp.seek(place)
        if content.endswith(b"DEADLY"):
            os.kill(os.getpid(), signal.SIGKILL)


ImageFile.ImageFile.__init__ = _open_or_die  # type: ignore[method-assign, assignment]
