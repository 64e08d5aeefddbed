"""The page of a running server in a headless Chromium whose microphone is a file: every button, and two screenshots.

    hf-moshi-ttt serve MODEL --memories memories &
    python benchmarks/live_page.py http://127.0.0.1:8998/ speech.wav --output screenshots

The file is a 48 kHz mono WAV. Needs playwright (pip) and Debian's chromium. What the page says after each step is
printed; an error of the page, or a step that is not answered, ends with exit code 1.
"""

import argparse
from pathlib import Path
from typing import Any

# A button or switch, and what the status says once the server has answered.
STEPS = [
    ("button", "Save memory", "The memory is saved."),
    ("switch", "Without memory", "The memory is silent, and goes on learning."),
    ("button", "Load", "The memory is loaded into a fresh conversation."),
    ("button", "Delete", "The saved memory is deleted."),
    ("button", "Forget all", "All is forgotten: a fresh conversation."),
    ("button", "Stop", "Not connected."),
]


def launch(playwright: Any, wav: Path) -> Any:
    """A browser that lets pages listen to a file."""
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--no-sandbox"]
    flags.append(f"--use-file-for-fake-audio-capture={wav.resolve()}")
    return playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)


def press(page: Any, role: str, name: str, said: str) -> None:
    """Uses a control by its accessible name from the keyboard, and waits for what the status says."""
    control = page.get_by_role(role, name=name, exact=False).first
    control.focus()
    page.keyboard.press("Space")
    page.get_by_text(said, exact=True).wait_for(timeout=60_000)
    print(f"{name}: {said}")


def main() -> None:
    """Runs the conversation."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("wav", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="of talking before the screenshots (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("screenshots"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = launch(playwright, arguments.wav).new_page(viewport={"width": 1100, "height": 900})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(arguments.url)
        press(page, "button", "Start talking", "Connected. Speak.")
        page.wait_for_timeout(1000 * arguments.seconds)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(500)
            page.screenshot(path=arguments.output / f"live-{scheme}.png", full_page=True)
        print(page.inner_text("#latency-text"))
        print(page.inner_text("#memory-age"))
        for step in STEPS:
            press(page, *step)
    if errors:
        raise SystemExit("\n".join(errors))


if __name__ == "__main__":
    main()
