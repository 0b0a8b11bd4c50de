"""The page of the server in headless Chromium."""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_client import wait_until

from personlab_keras.drawing import draw, person_colour
from personlab_keras.io.images import decode_image
from personlab_keras.method.person import Person, encode_mask

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the extra `serve`")


class Browser:
    """A page in headless Chromium, driven by its DevTools protocol."""

    def __init__(self, folder):
        from websockets.sync.client import connect

        program = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        if program is None:
            pytest.skip("no Chromium here")
        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
             f"--user-data-dir={folder}", "--window-size=1000,900", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        port_file = Path(folder) / "DevToolsActivePort"
        wait_until(lambda: port_file.exists() and "\n" in port_file.read_text())
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port_file.read_text().split()[0]}/json"
        ) as listing:
            page = next(each for each in json.load(listing) if each["type"] == "page")
        self.stack = contextlib.ExitStack()
        self.connection = self.stack.enter_context(
            connect(page["webSocketDebuggerUrl"], max_size=None)
        )
        self.number = 0
        self.thrown = []
        self.do("Runtime.enable")

    def do(self, method, **parameters):
        self.number += 1
        self.connection.send(
            json.dumps({"id": self.number, "method": method, "params": parameters})
        )
        while True:
            message = json.loads(self.connection.recv(timeout=60))
            if message.get("method") == "Runtime.exceptionThrown":
                self.thrown.append(message)
            if message.get("id") == self.number:
                return message["result"]

    def value(self, expression):
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def choose(self, path):
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, path):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=300, y=120, data=data)

    def said(self, word):
        wait_until(lambda: word in self.value("document.querySelector('#status').textContent"), 30)
        return self.value("document.querySelector('#status').textContent")

    def pixels(self):
        """(H, W, 3) uint8 of the canvas."""
        address = self.value("document.querySelector('#picture').toDataURL('image/png')")
        return np.asarray(
            Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")
        )

    def close(self):
        self.stack.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def browser(server):
    pytest.importorskip("websockets")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        try:
            browser.do("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
            wait_until(
                lambda: (
                    browser.value("document.readyState") == "complete"
                    and browser.value("typeof show") == "function"
                )
            )
            yield browser
            assert browser.thrown == []
        finally:
            browser.close()


def test_the_page_draws_the_people_over_the_photo(server, browser, scenes, tmp_path):
    photo = sorted((scenes / "images").iterdir())[0]
    _, answer = server.people(photo.read_bytes())
    height, width = answer["height"], answer["width"]
    browser.choose(photo)
    text = browser.said("pixels")
    count = len(answer["people"])
    assert text.startswith(
        f"{count} {'person' if count == 1 else 'people'} · {width} × {height} pixels"
    )
    scores = browser.value("[...document.querySelectorAll('#people li')].map(li => li.textContent)")
    assert scores == [
        f"Person {i + 1}: {round(100 * person['score'])} %"
        for i, person in enumerate(answer["people"])
    ]
    # Without people on it the canvas is the photo, as far as two JPEG decoders agree.
    for box in ("masks", "skeletons"):
        browser.value(f"document.querySelector('#{box}').click()")
    assert np.abs(browser.pixels().astype(int) - decode_image(photo.read_bytes(), "x")).mean() < 3
    # A corrupt file, dropped: its error replaces the old result.
    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:200])
    browser.drop(tmp_path / "broken.jpg")
    assert browser.said("truncated").startswith("broken.jpg: ")
    assert browser.value("document.querySelector('#result').hidden")
    browser.drop(photo)
    assert browser.said("pixels").split(" · ")[:2] == text.split(" · ")[:2]


def test_the_page_draws_as_the_package_does(server, browser, scenes):
    photo = sorted((scenes / "images").iterdir())[0]
    browser.choose(photo)
    browser.said("pixels")
    # The test model finds almost nothing, so two people are made up, the second one below the
    # first.
    y, x = np.indices((480, 640))
    people = []
    for left, score in ((150, 0.9), (260, 0.6)):
        keypoints = np.array([(left + 37.0 * (k % 4), 60.0 + 21 * k) for k in range(17)])
        mask = ((x - left - 60) / 110) ** 2 + ((y - 230) / 200) ** 2 < 1
        people.append(Person(keypoints, np.full(17, 0.8), score, encode_mask(mask)))
    people[1].keypoints[3] = np.nan
    people[1].keypoint_scores[5] = 0.05
    answer = {"width": 640, "height": 480, "people": [person.to_dict() for person in people]}
    browser.value(f"shown = {{picture: null, answer: {json.dumps(answer)}, seconds: 0}}; draw()")
    grey = np.full((480, 640, 3), 127, np.uint8)
    drawn, expected = browser.pixels(), draw(grey, people)
    assert drawn.shape == expected.shape
    # Lines are antialiased differently; joints have the same positions and areas the same colours.
    assert (np.abs(drawn.astype(int) - expected).max(axis=2) > 24).mean() < 0.06
    for person in people:
        columns, rows = (
            person.keypoints[person.found & (person.keypoint_scores > 0.1)].astype(int).T
        )
        np.testing.assert_allclose(
            drawn[rows, columns].astype(int), expected[rows, columns], atol=40
        )
    browser.value("document.querySelector('#skeletons').click()")
    nowhere = np.full((17, 2), np.nan)
    masks_alone = draw(grey, [replace(person, keypoints=nowhere) for person in people])
    assert (np.abs(browser.pixels().astype(int) - masks_alone).max(axis=2) > 24).mean() < 0.01
    browser.value("document.querySelector('#skeletons').click()")
    # People below the lowest score are not shown.
    browser.value("document.querySelector('#least').value = 70; draw()")
    assert browser.said("1 person")
    best_alone = draw(grey, people[:1])
    assert (np.abs(browser.pixels().astype(int) - best_alone).max(axis=2) > 24).mean() < 0.03


def test_the_page_reads_masks_and_colours_as_the_package_does(browser):
    random = np.random.default_rng(0)
    masks = [random.random((37, 23)) < share for share in (0.0, 0.02, 0.5, 1.0)]
    masks.append(np.indices((300, 500)).sum(axis=0) // 90 % 2 == 1)
    for mask in masks:
        height, width = mask.shape
        read = browser.value(f"[...sampleMask({json.dumps(encode_mask(mask))}, {width}, {height})]")
        np.testing.assert_array_equal(np.array(read).reshape(mask.shape), mask)
    for i in range(8):
        colour = browser.value(f"[...rgbOf(personColour({i}))].slice(0, 3)")
        np.testing.assert_allclose(colour, person_colour(i), atol=1)


def test_the_page_fits_a_phone_and_the_keyboard(browser):
    browser.do(
        "Emulation.setDeviceMetricsOverride",
        width=320,
        height=700,
        deviceScaleFactor=1,
        mobile=True,
    )
    assert browser.value("document.documentElement.scrollWidth") <= 320
    reached = []
    for _ in range(4):
        browser.do(
            "Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9
        )
        reached.append(browser.value("document.activeElement.id"))
    assert reached == ["file", "masks", "skeletons", "least"]
