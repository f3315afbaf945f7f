"""A Hugging Face Space of `ovseg app`: the page, with the small models that come with ovseg.

The Space's secret OVSEG_TOKEN (16 letters or more) is what lets people in: give them the Space's own address,
https://OWNER-NAME.hf.space/?token=..., for the page does not show inside another site. All who have it share one
workplace: photos that one of them drops are seen by the others. PORT and HOME_OF_RESULTS are for trying it locally.
"""

from __future__ import annotations

import os
import sys

from ovseg.cli import main


def arguments(environment: dict[str, str]) -> list[str]:
    """The command line of the page, from what a Space has in its environment."""
    token = environment.get("OVSEG_TOKEN", "")
    if not token:
        sys.exit("set the secret OVSEG_TOKEN: what people need to know to use this Space")
    given = ["app", "--preset", environment.get("OVSEG_PRESET", "photo"), "--no-browser", "--host", "0.0.0.0"]
    given += ["--port", environment.get("PORT", "7860"), "--token", token]
    given += ["--out", os.path.join(environment.get("HOME_OF_RESULTS", "."), "ovseg-app")]
    if host := environment.get("SPACE_HOST"):
        given += ["--allow-host", host]
    return given


if __name__ == "__main__":
    sys.exit(main(arguments(dict(os.environ))))
