"""The report in a real browser, opened from disk: with its images inside, and with its images beside it.

Skipped where there is no Chromium, chromedriver or selenium; with OVSEG_NEEDS_BROWSER set, that is a failure instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from browsers import ActionChains, Keys
from browsers import browser as browser
from PIL import Image
from run_folders import write_run
from safetensors.numpy import save_file

from ovseg.draw import class_colours, distinct_colours
from ovseg.report import write_report
from ovseg.report.errors import truth_in

HEIGHT, WIDTH = 40, 60
NAMES = ("background", "cat", "<img src=x onerror=\"document.title='hacked'\">", "дом & 犬")
COLOURS = class_colours(NAMES)
# Each image: a left part of one class and a right part of another; from which column on.
IMAGES = {
    "a/first": (1, 2, 30),
    "b <i>second</i> & 画像": (1, 3, 15),
    "c third": (0, 1, 48),
    "d fourth": (2, 255, 30),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    maps, sources = {}, {}
    for id, (left, right, column) in IMAGES.items():
        maps[id] = np.where(np.arange(WIDTH) < column, left, right) * np.ones((HEIGHT, 1), int)
        sources[id] = folder / "photos" / f"{id.replace('/', '-')}.png"
        sources[id].parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 200)).save(sources[id])
    sources["d fourth"].unlink()
    write_run(
        folder / "run", maps, NAMES, sources=sources, scores={1: 0.4, 2: 0.9}, states={"e <b>fifth</b>": "failed"}
    )
    # Two masks, the left and the right one: of the first image, where the diffusion model was moved to.
    differences = np.stack([np.tile([255, 0, 0, 0], (3, 1)), np.tile([0, 0, 0, 255], (3, 1))]).astype(np.uint8)
    segments = (maps["a/first"] == 2).astype(np.uint8)
    save_file({"difference_maps": differences, "segments": segments}, folder / "run" / "a/first.safetensors")
    return folder / "run"


@pytest.fixture(scope="module", params=["embedded", "beside"])
def report(run: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = tmp_path_factory.mktemp(request.param) / "a folder, 100 % #1" / "the päge #2.html"
    limit = {} if request.param == "embedded" else {"embedded_bytes": 0}
    written = write_report(run, page, title="Four <b>images</b>", **limit)
    assert (written.folder is None) == (request.param == "embedded")
    return page


def test_the_gallery_shows_every_image_and_names_are_text(browser, report):
    browser.open(report)
    assert browser.ids() == list(IMAGES)
    assert browser.text("h1") == browser.driver.title == "Four <b>images</b>"
    assert browser.text("#problem-list dt") == "e <b>fifth</b>" and browser.text("#problem-list dd") == "failed"
    assert [row.text for row in browser.all("#statistics .name")] == [
        NAMES[2],
        NAMES[1],
        NAMES[0],
        NAMES[3],
        "no label",
    ]
    assert not browser.all("main img[src=x], table img, .panel img, b, i i")
    for image in browser.all(".card img"):
        browser.wait("arguments[0].complete && arguments[0].naturalWidth === 60", image)
    assert browser.text(".card:nth-child(4) a > .quiet").startswith("no image")
    assert browser.complaints() == []


def test_the_overlay_has_the_classes_colours_and_toggles_take_them_away(browser, report):
    browser.open(report)
    browser.look_at("a/first")
    assert browser.pixel(0.2, 0.5) == [*COLOURS[1], 255]
    assert browser.pixel(0.8, 0.5) == [*COLOURS[2], 255]
    browser.chip("cat").click()
    browser.point_at(0.5, 0.9)  # away from the chip, which lets its class stand out
    assert browser.pixel(0.2, 0.5)[3] == 0 and browser.pixel(0.8, 0.5) == [*COLOURS[2], 255]
    assert browser.chip("cat").get_attribute("aria-pressed") == "false"
    browser.keys(Keys.ARROW_RIGHT)  # what is hidden stays hidden in other images
    browser.wait_for("b <i>second</i> & 画像")
    assert browser.pixel(0.1, 0.5)[3] == 0 and browser.pixel(0.8, 0.5) == [*COLOURS[3], 255]
    browser.one("#show-all").click()
    assert browser.pixel(0.1, 0.5) == [*COLOURS[1], 255] and not browser.one("#show-all").is_displayed()
    assert browser.complaints() == []


def test_pixels_without_a_label_are_white_and_can_be_hidden(browser, report):
    browser.open(report)
    browser.look_at("d fourth")
    assert browser.pixel(0.8, 0.5) == [255, 255, 255, 255]
    assert "the image could not be read" in browser.text("#about")
    assert not browser.one("#photo").is_displayed() and browser.one("#stack").size["width"] > 300
    browser.chip("no label").click()
    browser.point_at(0.2, 0.2)
    assert browser.pixel(0.8, 0.5)[3] == 0 and browser.pixel(0.2, 0.5) == [*COLOURS[2], 255]
    assert browser.complaints() == []


def test_the_slider_sets_how_strong_the_colours_are_here_and_in_the_gallery(browser, report):
    browser.open(report)
    browser.look_at("a/first")
    slider = browser.one("#detail .opacity")
    assert browser.text("#opacity-value") == "50 %"
    slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * 7)  # in the slider the arrows move it, not the images
    assert browser.text("#detail-title") == "a/first" and browser.text("#opacity-value") == "7 %"
    assert float(browser.one("#canvas").value_of_css_property("opacity")) == pytest.approx(0.07)
    width = slider.size["width"]
    ActionChains(browser.driver).move_to_element_with_offset(slider, round(width * 0.4), 0).click().perform()
    assert 80 <= int(browser.text("#opacity-value").split()[0]) <= 98
    browser.keys(Keys.ARROW_RIGHT)  # but the mouse lets go of it
    browser.wait_for("b <i>second</i> & 画像")
    browser.keys(Keys.ESCAPE)
    opacity = browser.one(".card .tint").value_of_css_property("opacity")
    assert float(opacity) == pytest.approx(int(browser.one(".toolbar .opacity").get_attribute("value")) / 100)
    assert float(opacity) > 0.5


def test_pointing_at_a_pixel_tells_its_class_score_and_mask(browser, report):
    browser.open(report)
    browser.look_at("a/first")
    assert browser.point_at(0.45, 0.5) == "cat | score 40 % | mask 0"
    assert browser.point_at(0.55, 0.5) == f"{NAMES[2]} | score 90 % | mask 1"
    outline = "[...document.getElementById('outline').getContext('2d').getImageData(arguments[0], 200, 1, 1).data]"
    middle = browser.js("document.getElementById('outline').width / 2")
    assert browser.js(outline, middle) == [255, 255, 255, 255] and browser.js(outline, 10)[3] == 0
    ActionChains(browser.driver).move_to_element(browser.one("#detail-title")).perform()
    assert not browser.one("#hover").is_displayed() and browser.js(outline, middle)[3] == 0
    browser.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    browser.wait_for("d fourth")
    assert browser.point_at(0.9, 0.1) == "no label | mask 1"
    assert browser.complaints() == []


def test_views_by_button_and_by_digit(browser, report):
    browser.open(report)
    browser.look_at("a/first")
    masks = distinct_colours(2)
    names = [button.text for button in browser.all("#views button")]
    assert names == ["Original", "Labels", "Masks", "Scores", "Differences"]
    browser.view("Masks")
    assert [browser.pixel(x, 0.5) for x in (0.2, 0.8)] == [[*masks[0], 255], [*masks[1], 255]]
    browser.keys("4")
    low, high = browser.pixel(0.2, 0.5), browser.pixel(0.8, 0.5)
    assert sum(low[:3]) < sum(high[:3]) and "Score" in browser.text("#caption")
    browser.keys("1")
    assert not browser.one("#canvas").is_displayed()
    browser.keys("2")
    assert browser.one("#canvas").is_displayed() and browser.pixel(0.2, 0.5) == [*COLOURS[1], 255]
    browser.keys("5")
    browser.point_at(0.2, 0.5)
    assert "mask 0" in browser.text("#caption")
    left = browser.pixel(0.1, 0.5), browser.pixel(0.9, 0.5)
    browser.point_at(0.8, 0.5)
    assert "mask 1" in browser.text("#caption")
    assert (browser.pixel(0.9, 0.5), browser.pixel(0.1, 0.5)) == left and left[0] != left[1]
    browser.keys(Keys.ARROW_RIGHT)
    browser.wait_for("b <i>second</i> & 画像")  # no difference maps were kept for it
    pressed = browser.one("#views [aria-pressed=true]")
    assert pressed.text == "Labels" and not browser.all("#views button")[4].is_enabled()
    assert browser.complaints() == []


def test_sorting_filtering_and_finding(browser, report):
    browser.open(report)
    first, second, third, fourth = IMAGES
    # Mean scores: (0.4 + 0.9) / 2, (15 x 0.4 + 45 x 0.75) / 60, (48 x 0.75 + 12 x 0.4) / 60, 0.9.
    choose = (
        "const box = document.querySelector(arguments[0]);"
        "box.value = arguments[1]; box.dispatchEvent(new Event('change'))"
    )
    browser.driver.execute_script(choose, "#sort", "unsure")
    assert browser.ids() == [first, second, third, fourth]
    browser.all("#statistics .name")[1].click()  # cat
    assert browser.ids() == [first, second, third]  # 50 %, 25 %, 20 % of them
    assert browser.one("#only").get_attribute("value") == "1" and "3 of 4" in browser.text("#count")
    assert browser.text(".card:nth-child(3) a > .quiet") == "20 % of it · 40 % sure"
    browser.driver.execute_script(choose, "#only", "2")
    assert browser.ids() == [first, fourth]
    browser.look_at(first)
    browser.keys(Keys.ARROW_RIGHT)  # the next one of those that are shown
    browser.wait_for(fourth)
    browser.keys(Keys.ESCAPE)
    browser.driver.execute_script(choose, "#only", "-1")
    assert browser.ids() == list(IMAGES)
    browser.one("#find").send_keys("画")
    assert browser.ids() == [second]
    browser.one("#find").send_keys("x")
    assert browser.ids() == [] and browser.one("#nothing").is_displayed()
    browser.one("#reset").click()
    assert browser.ids() == list(IMAGES)
    assert browser.complaints() == []


def test_the_keyboard_alone_is_enough(browser, report):
    browser.open(report)
    for _ in range(40):
        browser.keys(Keys.TAB)
        if browser.js("document.activeElement.parentElement.className") == "card":
            break
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.keys(Keys.ARROW_RIGHT, Keys.ENTER)
    second, third = list(IMAGES)[1:3]
    browser.wait_for(second)
    assert browser.text("#position") == "2 / 4"
    browser.keys(Keys.ARROW_RIGHT)
    browser.wait_for(third)
    browser.keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    browser.wait_for("a/first")
    assert not browser.one("#previous").is_enabled()
    browser.keys(Keys.ARROW_RIGHT)
    browser.wait_for(second)
    browser.keys(Keys.ESCAPE)
    browser.wait("!document.getElementById('detail').open")
    assert browser.js("document.activeElement.querySelector('.id').textContent") == second
    browser.driver.back()  # the browser's own button leads to where one was
    browser.wait_for(second)
    assert browser.complaints() == []


def test_an_address_opens_an_image_at_once(browser, report):
    browser.open(report)
    address = browser.js("document.querySelectorAll('.card a')[1].href")
    browser.driver.get("about:blank")
    browser.driver.get(address)
    browser.wait_for(list(IMAGES)[1])
    assert browser.pixel(0.8, 0.5) == [*COLOURS[3], 255]


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, report):
    browser.open(report, width=360, height=640)
    browser.one("details summary").click()
    page = "document.documentElement"
    assert browser.js("innerWidth") == 360
    assert browser.js(f"{page}.scrollWidth") == browser.js(f"{page}.clientWidth") <= 360
    browser.look_at("b <i>second</i> & 画像")
    assert browser.js("document.getElementById('detail').scrollWidth") <= 360
    wide = "[...document.querySelectorAll('#detail *')].filter((e) => e.getBoundingClientRect().right > 361).length"
    assert browser.js(wide) == 0
    assert browser.point_at(0.9, 0.5).startswith("дом & 犬")
    assert browser.js(wide) == 0
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_until_the_switch_is_used(browser, report, dark):
    browser.open(report, dark=dark)
    browser.js("localStorage.clear()")
    browser.open(report, dark=dark)

    def brightness(selector: str, property: str) -> int:
        text = browser.js("getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, property)
        return sum(int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]) // 3

    assert (brightness("body", "backgroundColor") < 60, brightness("body", "color") > 200) == (dark, dark)
    browser.one("#theme").click()
    assert (brightness("body", "backgroundColor") < 60, brightness("body", "color") > 200) == (not dark, not dark)
    browser.js("localStorage.clear()")
    assert browser.complaints() == []


def test_every_control_has_a_name(browser, report):
    browser.open(report)
    controls = "button, input, select, a, summary, canvas[role=img]"
    for control in browser.all(f".page :is({controls})"):
        assert control.accessible_name.strip() or not control.is_displayed(), control.get_attribute("outerHTML")
    browser.look_at("a/first")  # now what is behind the detail cannot be reached
    for control in browser.all(f"dialog, dialog :is({controls})"):
        assert control.accessible_name.strip() or not control.is_displayed(), control.get_attribute("outerHTML")


def test_a_page_whose_folder_was_left_behind_says_so(browser, run, tmp_path):
    page = write_report(run, tmp_path / "page.html", embedded_bytes=0).file
    shutil.rmtree(tmp_path / "page-files")
    browser.open(page)
    browser.wait("!document.getElementById('missing').hidden")
    assert "“page-files” belongs beside this page" in browser.text("#missing")
    browser.one(".card a").click()
    browser.wait("document.getElementById('caption').textContent === 'page-files/0.js is missing'")


def test_errors_are_shown_the_worst_image_first_with_what_is_true(browser, run, tmp_path):
    columns = {id: np.where(np.arange(WIDTH) < at, left, right) for id, (left, right, at) in IMAGES.items()}
    true = {id: np.tile(column, (HEIGHT, 1)) for id, column in columns.items()}
    true["a/first"][: HEIGHT // 2, 30:] = 3  # of the right half the upper part is something else, the lower not known
    true["a/first"][HEIGHT // 2 :, 30:] = 255
    for id in ("a/first", "c third"):
        (tmp_path / id).parent.mkdir(exist_ok=True)
        Image.fromarray(true[id].astype(np.uint8)).save(tmp_path / f"{id}.png")
    report = write_report(run, tmp_path / "report.html", truth=truth_in(tmp_path))
    assert report.judged == 2
    browser.open(report.file)
    assert browser.ids() == ["a/first", "c third", "b <i>second</i> & 画像", "d fourth"]
    assert [card.text.split(" · ")[0] for card in browser.all(".card .quiet")[:2]] == ["67 % right", "100 % right"]
    assert "85.7 % of pixels right" in browser.text("#summary")  # 1200 and 2400 of 1800 and 2400
    browser.look_at("a/first")
    assert [browser.pixel(*place) for place in ((0.2, 0.5), (0.8, 0.2), (0.8, 0.8))] == [
        [47, 111, 208, 255],
        [224, 69, 43, 255],
        [128, 128, 128, 255],
    ]
    assert NAMES[2] in (said := browser.point_at(0.8, 0.2)) and NAMES[3] in said and "truly" in said
    assert NAMES[3] not in browser.point_at(0.8, 0.8)
    assert "67 % of labelled pixels" in browser.text("#about")
    browser.keys(Keys.ARROW_RIGHT)
    browser.wait_for("c third")
    assert browser.pixel(0.9, 0.9) == [47, 111, 208, 255]
    browser.keys("2")
    assert browser.pixel(0.9, 0.9) == [*COLOURS[1], 255]
    browser.keys(Keys.ARROW_RIGHT)  # without a truth there are labels alone
    browser.wait_for("b <i>second</i> & 画像")
    assert not next(button for button in browser.all("#views button") if button.text == "Errors").is_enabled()
    assert browser.complaints() == []
