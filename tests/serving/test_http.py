"""The answers of a server over HTTP: people, errors, limits, metrics."""

import threading

import numpy as np
import pytest
from image_bombs import huge_png
from PIL import Image
from serving_client import (
    FIND_ANYBODY,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_QUEUED,
    Upload,
    encoded,
    form,
    scene,
    wait_until,
)

from personlab_keras.io.images import decode_image

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="needs the extra `serve`")


@pytest.fixture(scope="module")
def predictor(model_directory):
    from personlab_keras.inference.predict import load

    return load(model_directory, FIND_ANYBODY)


def test_answers_equal_the_files_of_predict(server, scenes, predictor):
    data = scene(scenes)
    status, answer = server.people(data)
    image = decode_image(data, "x")
    expected = [person.to_dict() for person in predictor(image)]
    assert status == 200
    assert expected
    assert answer == {"width": image.shape[1], "height": image.shape[0], "people": expected}
    body, kind = form(data)
    assert server.people(body, content_type=kind) == (200, answer)


def test_every_format_is_answered_as_exif_orients_it(server):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        status, answer = server.people(encoded(picture, kind))
        assert (status, answer["width"], answer["height"]) == (200, 90, 60), kind
    status, answer = server.people(encoded(picture, "JPEG", exif=turned))
    assert (answer["width"], answer["height"]) == (60, 90)
    masks = [person["mask"] for person in answer["people"] if "mask" in person]
    assert masks
    assert all(mask["size"] == [90, 60] for mask in masks)


def test_what_a_request_may_ask_for(server, scenes):
    data = scene(scenes)
    _, whole = server.people(data)
    _, without = server.people(data, "?masks=false")
    assert any("mask" in person for person in whole["people"])  # an empty mask is left out
    assert without["people"]
    assert not any("mask" in person for person in without["people"])
    assert [person["keypoints"] for person in without["people"]] == [
        person["keypoints"] for person in whole["people"]
    ]
    assert server.people(data, "?score_threshold=1&masks=true")[1]["people"] == []
    for query in (
        "?masks=maybe",
        "?mask=true",
        "?score_threshold=2",
        "?score_threshold=nan",
        "?score_threshold=x",
    ):
        status, answer = server.people(data, query)
        assert status == 400, query
        assert query[1:] in answer["error"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8000, 10), (10, 8000), (3, 200)])
def test_odd_shapes(server, width, height):
    status, answer = server.people(encoded(Image.new("RGB", (width, height), (90, 120, 40)), "PNG"))
    assert (status, answer["width"], answer["height"]) == (200, width, height)


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "an empty file"),
        (b"no image", 422, "8 bytes that do not decode"),
        (encoded(Image.new("RGB", (50, 40)), "JPEG")[:-300], 422, "truncated"),
        (huge_png(), 422, f"at most {MAX_PIXELS} pixels. Received: 30000 x 30000"),
        (
            encoded(Image.new("RGB", (MAX_PIXELS + 1, 1)), "PNG"),
            422,
            f"Received: {MAX_PIXELS + 1} x 1",
        ),
        (bytes(MAX_BYTES + 1), 413, f"at most {MAX_BYTES} bytes"),
        # A client that keeps sending gets the answer, too.
        (bytes(20 * MAX_BYTES), 413, f"at most {MAX_BYTES} bytes"),
    ],
)
def test_bad_images_get_one_line(server, data, status, words):
    before = server.metric(f'personlab_requests_total{{status="{status}"}}')
    got, answer = server.people(data)
    assert got == status
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    assert server.metric(f'personlab_requests_total{{status="{status}"}}') == before + 1


def test_an_animated_gif_is_predicted_or_refused(server):
    frames = [Image.new("RGB", (50, 40), (grey, grey, grey)) for grey in (0, 90, 180)]
    status, answer = server.people(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    # Depending on the version of OpenCV: the first frame, or an error in one line.
    assert (status, answer.get("width")) == (200, 50) or (status, list(answer)) == (422, ["error"])


def test_bytes_without_an_announced_length_are_counted(server):
    pieces = (bytes(50_000) for _ in range(MAX_BYTES // 50_000 + 2))
    assert server.people(pieces)[0] == 413
    body, kind = form(bytes(MAX_BYTES + 1))
    assert server.people(body, content_type=kind)[0] == 413


def test_forms_without_a_file(server):
    for body in (
        b"abc",
        b'--limit\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--limit--\r\n',
    ):
        status, answer = server.people(body, content_type="multipart/form-data; boundary=limit")
        assert status == 400
        assert answer["error"]


def test_other_addresses_and_methods(server):
    assert server.ask("GET", "/nothing")[::2] == (404, {"error": "Not Found"})
    assert server.ask("GET", "/v1/people")[0] == 405
    assert server.ask("GET", "/v1/model")[2]["keypoints"][0] == "nose"


def test_it_is_healthy_and_counts(server, scenes):
    status, _, answer = server.ask("GET", "/healthz")
    assert (status, answer) == (200, {"ready": True, "replicas": {"running": 1}})
    names = (
        "personlab_request_seconds_count",
        "personlab_batch_images_sum",
        "personlab_people_total",
    )
    before = [server.metric(name) for name in names]
    _, answer = server.people(scene(scenes))
    assert [server.metric(name) for name in names] == [
        before[0] + 1,
        before[1] + 1,
        before[2] + len(answer["people"]),
    ]
    assert server.metric("personlab_queue_depth") == 0
    assert server.metric("process_resident_memory_bytes") > 0


# The queue


def test_images_that_are_arriving_hold_no_place_in_the_queue(server, scenes):
    data = scene(scenes)
    expected = server.people(data)
    uploads = [Upload(server, data) for _ in range(8 * MAX_QUEUED)]
    wait_until(lambda: server.metric("personlab_uploads") == 8 * MAX_QUEUED)
    assert server.metric("personlab_queue_depth") == 0
    assert server.people(data) == expected
    assert [upload.answer() for upload in uploads[:MAX_QUEUED]] == [expected] * MAX_QUEUED
    for upload in uploads[MAX_QUEUED:]:
        upload.socket.close()
    wait_until(lambda: server.metric("personlab_uploads") == 0)


def test_slow_and_disconnected_clients_are_let_go(server, scenes):
    gone = Upload(server, scene(scenes))
    slow = Upload(server, scene(scenes))
    wait_until(lambda: server.metric("personlab_uploads") == 2)
    gone.socket.close()
    status, answer = slow.answer(finish=False)
    assert (status, answer) == (408, {"error": "the image must arrive within 5 s"})
    wait_until(lambda: server.metric("personlab_uploads") == 0)


def test_concurrent_requests_are_all_answered(server, scenes):
    data = [path.read_bytes() for path in sorted((scenes / "images").iterdir())[:4]]
    alone = [server.people(each) for each in data]
    answers = {}

    def client(number):
        for turn in range(6):
            i = (number + turn) % len(data)
            status, answer = server.people(data[i])
            while status == 503:
                status, answer = server.people(data[i])
            answers[number, turn] = (i, (status, answer))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(2 * MAX_QUEUED)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert len(answers) == 12 * MAX_QUEUED
    for i, answer in answers.values():
        assert answer[0] == 200
        assert [person["score"] for person in answer[1]["people"]] == pytest.approx(
            [person["score"] for person in alone[i][1]["people"]], abs=1e-3
        )
