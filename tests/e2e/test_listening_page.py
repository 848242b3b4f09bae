"""A rater in headless Chromium: plays, answers by mouse and keys, reloads, saves; what was saved is scored."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from raysem import storage
from raysem.listening.building import ListeningSettings, Study, build_study
from raysem.listening.scoring import StudyScore, score_study
from raysem.tables import CLIPS

NUM_CLIPS = 8
RATER = "Änn  O'Rater"
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Eight tones of two seconds; one model calls them A0 to A7, the other B0 to B7."""
    folder = tmp_path_factory.mktemp("listening")
    clip_ids = [f"tone/{number}" for number in range(NUM_CLIPS)]
    rows = []
    for number, clip_id in enumerate(clip_ids):
        buffer = io.BytesIO()
        samples_T = 0.3 * np.sin(2 * np.pi * (300 + 50 * number) * np.arange(32_000) / 16_000)
        soundfile.write(buffer, samples_T, 16_000, format="WAV", subtype="PCM_16")
        rows.append({"clip_id": clip_id, "audio": {"bytes": buffer.getvalue(), "path": None}})
    storage.write_table(str(folder / "clips.parquet"), pa.Table.from_pylist(rows, schema=CLIPS))
    for model in "AB":
        tags = [[{"name": f"{model}{number}", "score": 0.9}, {"name": "<i>Tone", "score": 0.5}] for number in range(8)]
        storage.write_table(str(folder / f"{model}.parquet"), pa.table({"clip_id": clip_ids, "tags": tags}))
    locations = [str(folder / name) for name in ("clips.parquet", "A.parquet", "B.parquet", "study")]
    return build_study(*locations, settings=ListeningSettings(num_clips=NUM_CLIPS))


class Rater:
    """A browser with the page open. Every act is a real mouse or key event."""

    def __init__(self, study: Study, driver: Any, downloads: Path):
        self.study, self.driver, self.downloads = study, driver, downloads
        driver.get(Path(study.page).as_uri())

    def element(self, id: str) -> Any:
        return self.driver.find_element("id", id)

    def click(self, id: str) -> None:
        self.element(id).click()

    def press(self, keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def text(self, id: str) -> str:
        return self.element(id).text

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited for too long; the page says {self.text('status')!r}"
            time.sleep(0.02)

    def start(self, name: str) -> None:
        self.element("rater").clear()
        self.element("rater").send_keys(name)
        self.click("start")

    def is_ready(self) -> bool:
        return self.element("choose-left").get_attribute("aria-disabled") == "false"

    def listen(self) -> None:
        self.press(" ")
        self.until(self.is_ready)

    def shown(self) -> dict[str, list[str]]:
        """The tags on the screen, by side."""
        return {
            side: [item.text for item in self.driver.find_elements("css selector", f"#{side}-tags li")]
            for side in ("left", "right")
        }

    def side_of(self, model: str) -> str:
        return next(side for side, tags in self.shown().items() if tags[0].startswith(model))

    def is_screen(self, id: str) -> bool:
        return self.element(id).is_displayed()

    def save(self, id: str) -> Path:
        before = set(self.downloads.glob("*.json"))
        self.click(id)
        self.until(lambda: set(self.downloads.glob("*.json")) - before)
        (file,) = set(self.downloads.glob("*.json")) - before
        return file

    def score(self, *files: Path) -> StudyScore:
        return score_study(self.study.key_file, [str(file) for file in files])

    def problems(self) -> list[str]:
        """What the browser complained of: errors of the script, and breaches of the page's own policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def rater(study: Study, tmp_path: Path) -> Iterator[Rater]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install raysem[test]")
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # A container has no user namespaces for the sandbox and a small /dev/shm; the page is our own.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(chromedriver))
    driver.set_window_size(1000, 900)
    (tmp_path / "downloads").mkdir()
    try:
        yield Rater(study, driver, tmp_path / "downloads")
    finally:
        driver.quit()


def test_a_rater_goes_through_the_whole_page(rater: Rater):
    answer_four_clips(rater)
    come_back_and_change_one(rater)
    finish_and_save(rater)


def answer_four_clips(rater: Rater) -> None:
    """With a name, after listening, by mouse and by keys."""
    # A name is needed.
    rater.click("start")
    assert rater.is_screen("welcome")
    assert "name or initials" in rater.text("status")
    rater.start(RATER)
    assert rater.text("clip-title") == "Sound 1 of 8"
    assert rater.text("progress-text") == "0 of 8 answered"

    # Nothing can be chosen before the sound was played, by mouse or by key.
    rater.click("choose-left")
    rater.press("1")
    assert rater.text("clip-title") == "Sound 1 of 8"
    assert "Play the sound first" in rater.text("listen-first")
    assert rater.shown() == {
        side: list(getattr(rater.study.key.clips[0], side).tags) for side in ("left", "right")
    }  # `<i>` is text

    # By mouse: the first model, always A. The space bar plays and pauses meanwhile.
    rater.click("play")
    rater.until(rater.is_ready)
    assert rater.element("play").get_attribute("aria-label") == "Pause the sound"
    rater.press(" ")
    rater.until(lambda: rater.element("play").get_attribute("aria-label") == "Play the sound")
    rater.click(f"choose-{rater.side_of('A')}")
    assert rater.text("clip-title") == "Sound 2 of 8"
    assert rater.text("progress-text") == "1 of 8 answered"
    assert not rater.is_ready()

    # By keys: digits, arrows.
    rater.listen()
    rater.press({"left": "1", "right": "2"}[rater.side_of("A")])
    rater.listen()
    rater.press({"left": "\ue012", "right": "\ue014"}[rater.side_of("B")])  # the arrow keys
    assert rater.text("clip-title") == "Sound 4 of 8"
    rater.listen()
    rater.press("0")
    assert rater.text("status") == "Sound 4: about the same. 4 of 8 answered."


def come_back_and_change_one(rater: Rater) -> None:
    """Reload, save a half-finished file, go back to an answer."""
    # Closing the browser loses nothing: after a reload it goes on at the first open clip.
    rater.driver.refresh()
    assert rater.is_screen("welcome")
    assert rater.text("welcome-back") == "Welcome back. 4 of 8 sounds answered so far."
    assert rater.element("rater").get_attribute("value") == "Änn O'Rater"
    rater.click("start")
    assert rater.text("clip-title") == "Sound 5 of 8"

    # A half-finished file is a file.
    found = rater.score(rater.save("save-now"))
    (one,) = found.raters
    assert (one.rater, one.answered) == ("Änn O'Rater", 4)
    assert (one.tally.first, one.tally.second, one.tally.same) == (2, 1, 1)

    # Back by key; the answer is shown and can be changed, which leads on to the open clip.
    rater.press("\ue003")  # Backspace
    assert rater.text("clip-title") == "Sound 4 of 8"
    assert rater.element("choose-same").get_attribute("aria-pressed") == "true"
    assert rater.is_ready()
    rater.click(f"choose-{rater.side_of('B')}")
    assert rater.text("clip-title") == "Sound 5 of 8"
    assert rater.text("progress-text") == "4 of 8 answered"


def finish_and_save(rater: Rater) -> None:
    """The rest, the file, and what it says."""
    for _ in range(4):
        rater.listen()
        rater.click(f"choose-{rater.side_of('B')}")
    assert rater.text("done-title") == "Thank you, Änn O'Rater"
    file = rater.save("save")
    assert file.name.startswith("answers-ann-o-rater-")
    content = json.loads(file.read_text())
    assert [answer["clip"] for answer in content["answers"]] == [clip.token for clip in rater.study.key.clips]
    assert all(0 <= answer["seconds"] < TIMEOUT_SECONDS * 4 for answer in content["answers"])
    assert any(answer["seconds"] > 0 for answer in content["answers"])
    (one,) = rater.score(file).raters
    assert (one.answered, one.tally.first, one.tally.second, one.tally.same) == (8, 2, 6, 0)
    assert rater.problems() == []


def test_a_saved_file_goes_on_in_another_browser_and_the_next_rater_starts_afresh(rater: Rater, tmp_path: Path):
    rater.start("Bo")
    for key in "10":
        rater.listen()
        rater.press(key)
    file = rater.save("save-now")

    # Start again: asked first, then everything is gone, also after a reload.
    rater.driver.find_element("css selector", "#more summary").click()
    rater.click("restart")
    assert "Delete 2 answers of Bo" in rater.text("ask-text")
    rater.click("ask-no")
    assert rater.text("progress-text") == "2 of 8 answered"
    rater.click("restart")
    rater.click("ask-yes")
    rater.driver.refresh()
    assert rater.element("rater").get_attribute("value") == ""
    assert not rater.is_screen("welcome-back")

    # A file of another test, and one that is no file of answers, say so and change nothing.
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(file.read_text()) | {"study": "000000000000"}))
    rater.element("file").send_keys(str(other))
    rater.until(lambda: "belong to another listening test" in rater.text("status"))
    other.write_text("no JSON")
    rater.element("file").send_keys(str(other))
    rater.until(lambda: "not a file of answers" in rater.text("status"))

    rater.element("file").send_keys(str(file))
    rater.until(lambda: rater.is_screen("welcome-back"))
    assert rater.element("rater").get_attribute("value") == "Bo"
    rater.click("start")
    assert rater.text("clip-title") == "Sound 3 of 8"
    again = json.loads(rater.save("save-now").read_text())
    assert again["answers"] == json.loads(file.read_text())["answers"]
    assert rater.problems() == []


def test_a_sound_that_cannot_be_played_stays_open_and_the_rest_goes_on(rater: Rater, tmp_path: Path):
    text = Path(rater.study.page).read_text()
    for clip in json.loads(text.split('id="study">')[1].split("</script>")[0])["clips"][:7]:
        text = text.replace(clip["audio"], "data:audio/mpeg;base64,AAAA")
    (tmp_path / "broken.html").write_text(text)
    rater.driver.get((tmp_path / "broken.html").as_uri())
    rater.start("Di")
    for number in range(1, 8):
        assert rater.text("clip-title") == f"Sound {number} of 8"
        rater.until(lambda: rater.is_screen("broken"))
        assert not rater.is_ready()
        rater.click("next")
    assert not rater.is_screen("broken")
    rater.listen()
    rater.press("0")
    assert rater.text("done-text") == "1 of 8 sounds answered, 7 still open."
    (one,) = rater.score(rater.save("save")).raters
    assert (one.answered, one.tally.same) == (1, 1)
    rater.click("to-open")
    assert rater.text("clip-title") == "Sound 1 of 8"


def test_the_keys_can_be_turned_off_and_a_phone_needs_no_sideways_scrolling(rater: Rater):
    rater.start("Cy")
    rater.driver.find_element("css selector", "#more summary").click()
    rater.click("shortcuts")
    rater.click("clip-title")  # away from the checkbox
    rater.press(" ")
    assert rater.element("play").get_attribute("aria-label") == "Play the sound"
    rater.click("play")
    rater.until(rater.is_ready)
    rater.press("0")
    assert rater.text("clip-title") == "Sound 1 of 8"
    for width in (320, 400, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        rater.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert rater.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        for id in ("play", "choose-left", "choose-same", "choose-right", "back", "save-now"):
            box = rater.element(id).rect
            assert box["height"] >= 44
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    assert rater.problems() == []
