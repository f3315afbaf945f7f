"""`ovseg app` in a real browser: label by typing, click, point, correct, export; by mouse, by keyboard, on a phone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app_server import Server
from browsers import ActionChains, Browser, By, Keys
from browsers import browser as browser
from PIL import Image
from run_folders import write_run

from ovseg.draw import class_colours
from ovseg.pocket.world import picture
from ovseg.run.corrections import corrections
from ovseg.run.folder import read_run
from ovseg.run.images import RunImage

NAMES = ("background", "cat", "<b>dog</b>")
COLOURS = class_colours((*NAMES, "hedge"))
HEIGHT, WIDTH = 40, 60
SCENES = {"one": "world3/evaluation/0/1", "two": "world3/evaluation/0/2"}
IMAGES = ("a/first", "b <i>second</i>", "c third")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Three images, each with a left mask (cat) and a right one (dog); no model is needed."""
    labels = np.where(np.arange(WIDTH) < 30, 1, 2) * np.ones((HEIGHT, 1), int)
    sources = {id: tmp_path / f"{number}.png" for number, id in enumerate(IMAGES)}
    for file in sources.values():
        Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 200)).save(file)
    run = write_run(tmp_path / "run", dict.fromkeys(IMAGES, labels), NAMES, sources=sources, scores={1: 0.4})
    served = Server(run, tmp_path / "unused")
    yield served
    served.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Server]:
    """Nothing yet, and the pocket models."""
    served = Server(None, tmp_path / "out")
    yield served
    served.close()


def labels_of(server: Server, id: str = IMAGES[0]) -> np.ndarray:
    return RunImage(read_run(server.session.out), id).index_map()


def open_image(browser: Browser, server: Server, id: str = IMAGES[0], **size: object) -> None:
    browser.open(server.address, **size)
    browser.wait("document.querySelectorAll('.card').length >= 2 && !waitingForState === false")
    browser.look_at(id)
    browser.driver.execute_script("state.view = 'overlay'; chooseView('overlay')")


def click_at(browser: Browser, x: float, y: float, *, shift: bool = False) -> None:
    stack = browser.one("#stack")
    right, down = (x - 0.5) * stack.size["width"], (y - 0.5) * stack.size["height"]
    actions = ActionChains(browser.driver).move_to_element_with_offset(stack, round(right), round(down))
    (actions.key_down(Keys.SHIFT).click().key_up(Keys.SHIFT) if shift else actions.click()).perform()


def tool(browser: Browser, name: str) -> None:
    browser.one(f"[data-tool={name}]").click()


def saved(browser: Browser, text: str = "Saved.") -> None:
    browser.wait("document.getElementById('tool-note').textContent === arguments[0]", text)


def test_from_an_empty_folder_to_labels_by_dropping_and_typing(browser, empty, tmp_path):
    browser.open(empty.address)
    files = []
    for name, scene in SCENES.items():
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(picture(scene)).save(files[-1])
    (tmp_path / "bad.png").write_bytes(b"no image")
    browser.one("#files").send_keys("\n".join(map(str, [*files, tmp_path / "bad.png"])))
    browser.wait("document.querySelectorAll('.card').length === 2 && !document.getElementById('told').hidden")
    assert browser.text("#told").startswith("bad.png: not a") and browser.ids() == ["one", "two"]
    browser.one("#names").send_keys("cat; kitten\ndog\ncar,, horse")
    browser.one("#start").click()
    browser.wait("document.getElementById('told').textContent.includes('empty name')")
    browser.one("#names").clear()
    browser.one("#names").send_keys("cat; kitten\ndog\nsea, grass")
    browser.driver.execute_script("document.getElementById('rule').value = 'none'")
    browser.one("#names").send_keys(Keys.CONTROL, Keys.ENTER)
    browser.wait("document.getElementById('progress-text').textContent === 'done · 2 images'")
    browser.wait("data.images.every((row) => row.state === 'done') && data.classes.length === 5")
    assert [row.text for row in browser.all("#statistics .name")] != [] and browser.one("#out").is_displayed()
    assert browser.complaints() == [] or all("400" in line for line in browser.complaints())
    browser.look_at("one")
    click_at(browser, 0.5, 0.5)
    browser.wait("document.querySelectorAll('#best .chip').length === 4")
    best = [float(part.text.split()[0].strip("<")) for part in browser.all("#best .number")]
    assert best == sorted(best, reverse=True) and "Mask" in browser.text("#selection-heading")


def test_point_mode_shows_which_pixels_answer_and_keeps_them_under_a_new_name(browser, empty):
    for name, scene in SCENES.items():
        buffer = io.BytesIO()
        Image.fromarray(picture(scene)).save(buffer, "PNG")
        empty.raw("POST", f"/api/upload?name={name}.png", buffer.getvalue())
    empty.ask("cat, dog")
    open_image(browser, empty, "one")
    tool(browser, "point")
    click_at(browser, 0.3, 0.6)
    browser.wait("tools.answer !== null")
    answers = browser.js("[...tools.answer.values]")
    drawn = "marks.getContext('2d').getImageData(0, 0, marks.width, marks.height).data"
    covered = f"[...{drawn}].filter((value, at) => at % 4 === 3 && value).length"
    cut = browser.js("tools.cut")
    assert browser.js(covered) == sum(value >= cut for value in answers) > 0
    for _ in range(4):
        browser.keys("]")
    assert browser.js("tools.cut") == min(255, cut + 32)
    more = browser.js(covered)
    assert more == sum(value >= min(255, cut + 32) for value in answers)
    browser.one("#name").send_keys("hedge", Keys.ENTER)
    saved(browser)
    labels = labels_of(empty, "one")
    names = read_run(empty.session.out).facts["names"]
    assert names[-1] == "hedge" and (labels == len(names) - 1).sum() == more
    assert browser.chip("hedge") and browser.complaints() == []


def test_masks_are_clicked_renamed_undone_and_stay_after_a_reload(browser, server):
    open_image(browser, server)
    click_at(browser, 0.2, 0.5)
    assert browser.text("#selection-heading") == "Mask 0 · 50 % of the image"
    click_at(browser, 0.8, 0.5, shift=True)
    assert browser.text("#selection-heading") == "2 masks · 100 % of the image"
    browser.one("#name").send_keys("hedge", Keys.ENTER)
    saved(browser)
    assert (labels_of(server) == 3).all() and browser.pixel(0.2, 0.5) == [*COLOURS[3], 255]
    browser.one("#undo").click()
    browser.wait("data.images[detail.number].undo === false")
    assert labels_of(server)[0, 0] == 1 and browser.pixel(0.2, 0.5) == [*COLOURS[1], 255]
    browser.one("#redo").click()
    browser.wait("data.images[detail.number].redo === false")
    open_image(browser, server)
    assert browser.pixel(0.2, 0.5) == [*COLOURS[3], 255] and browser.text(".card .quiet").startswith("corrected")
    assert not browser.all("#gallery b, #tools b, datalist b") and browser.complaints() == []


def test_brush_and_eraser(browser, server):
    open_image(browser, server)
    tool(browser, "brush")
    browser.one("#name").send_keys("<b>dog</b>")
    stack = browser.one("#stack")
    chain = ActionChains(browser.driver).move_to_element_with_offset(stack, -stack.size["width"] // 3, 0)
    chain.click_and_hold().move_by_offset(stack.size["width"] // 6, 0).release().perform()
    saved(browser)
    labels = labels_of(server)
    assert labels[20, 10] == labels[20, 19] == 2 and labels[20, 2] == 1 and labels[35, 10] == 1
    assert browser.pixel(0.25, 0.5) == [*COLOURS[2], 255] and browser.pixel(0.25, 0.9) == [*COLOURS[1], 255]
    tool(browser, "erase")
    click_at(browser, 0.8, 0.5)
    browser.wait("data.images[detail.number].classes.some(([index]) => index === 0)")
    assert labels_of(server)[20, 48] == 0 and browser.complaints() == []


def test_the_keyboard_alone_reviews_renames_paints_and_undoes(browser, server):
    browser.open(server.address)
    browser.wait("document.querySelectorAll('.card').length === 3")
    browser.driver.execute_script("document.querySelector('.card a').focus()")
    browser.keys(Keys.ENTER)
    browser.wait_for(IMAGES[0])
    browser.keys("m")
    assert browser.text("#selection-heading").startswith("Mask 0")
    browser.keys("m", Keys.ENTER)
    browser.keys("cat", Keys.ENTER)
    saved(browser)
    assert (labels_of(server) == 1).all()
    browser.keys(Keys.ESCAPE, "b", "f", *[Keys.ARROW_LEFT] * 8, " ")  # the name is still there
    browser.keys(Keys.ENTER, "hedge", Keys.ESCAPE, " ")
    browser.wait("data.images[detail.number].classes.length === 2")
    labels = labels_of(server)
    assert labels[20, 18] == 3 and labels[0, 0] == 1 and browser.js("document.getElementById('detail').open")
    browser.keys("u", "u")
    browser.wait("data.images[detail.number].undo === false")
    assert labels_of(server)[0, 59] == 2
    browser.keys("r")
    browser.wait_for(IMAGES[1])
    assert corrections(server.session.out, IMAGES[0]).reviewed
    browser.keys("r")
    browser.wait_for(IMAGES[2])
    browser.keys(Keys.ESCAPE)
    browser.wait("!document.getElementById('detail').open")
    assert [line.text.split(" · ")[0] for line in browser.all(".card a > .quiet")] == [
        "reviewed",
        "reviewed",
        "57 % sure",
    ]
    assert browser.complaints() == []


def test_two_tabs_see_each_others_corrections(browser, server):
    open_image(browser, server)
    server.post("/api/edit", id=IMAGES[0], kind="masks", masks=[0], to="hedge")
    browser.driver.execute_script("poll()")
    browser.wait("data.classes.length === 5 && detail.maps !== null && detail.maps.labels[0] === 3")
    assert browser.pixel(0.2, 0.5) == [*COLOURS[3], 255]
    click_at(browser, 0.8, 0.5)
    browser.one("#name").send_keys("cat", Keys.ENTER)
    saved(browser)
    assert labels_of(server)[0].tolist() == [3] * 30 + [1] * 30 and browser.complaints() == []


@pytest.mark.slow
def test_exports_and_the_command_from_the_page(browser, server):
    browser.open(server.address)
    browser.wait("!document.getElementById('out').hidden")
    browser.one("#out summary").click()
    browser.driver.execute_script("document.getElementById('format').value = 'png'")
    browser.one("#export-form .strong").click()
    browser.wait("document.querySelector('#exported a')")
    assert browser.text("#exported a").startswith("download png.zip")
    _, _, content = server.raw("GET", "/api/download?format=png")
    with Image.open(io.BytesIO(zipfile.ZipFile(io.BytesIO(content)).read(f"png/{IMAGES[0]}.png"))) as exported:
        assert (np.array(exported) == labels_of(server)).all()
    browser.one("#show-command").click()
    browser.wait("document.getElementById('command').textContent !== ''")
    assert browser.text("#command").startswith("ovseg label ") and "Segmenter" in browser.text("#python")
    assert browser.complaints() == []


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_finger_selects(browser, server):
    browser.open(server.address, width=360, height=640, dark=True)
    browser.wait("document.querySelectorAll('.card').length === 3")
    wide = "[...document.querySelectorAll(arguments[0])].filter((e) => e.getBoundingClientRect().right > 361).length"
    browser.one("#out summary").click()
    assert browser.js("document.documentElement.scrollWidth") <= 360 and browser.js(wide, ".page *") == 0
    browser.look_at(IMAGES[0])
    assert browser.js(wide, "#detail *") == 0
    click_at(browser, 0.2, 0.5)
    assert browser.text("#selection-heading").startswith("Mask 0")
    tool(browser, "brush")
    assert browser.js("getComputedStyle(document.getElementById('stack')).touchAction") == "none"
    assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(18, 19, 22)"
    assert browser.js(wide, "#detail *") == 0 and browser.complaints() == []


@pytest.mark.slow
def test_every_control_has_a_name(browser, server):
    browser.open(server.address)
    browser.wait("document.querySelectorAll('.card').length === 3")
    controls = "button, input, select, textarea, a, summary, canvas[role=img]"
    for control in browser.all(f".page :is({controls})"):
        assert control.accessible_name.strip() or not control.is_displayed(), control.get_attribute("outerHTML")
    browser.look_at(IMAGES[0])
    for control in browser.all(f"dialog :is({controls})"):
        assert control.accessible_name.strip() or not control.is_displayed(), control.get_attribute("outerHTML")


@pytest.mark.slow
def test_a_script_in_a_name_is_never_run(browser, server):
    open_image(browser, server)
    click_at(browser, 0.2, 0.5)
    browser.one("#name").send_keys("<img src=x onerror=\"document.title='hacked'\">", Keys.ENTER)
    saved(browser)
    open_image(browser, server)
    assert browser.driver.title == "run" and not browser.driver.find_elements(By.CSS_SELECTOR, "img[src=x]")
    assert browser.complaints() == []
