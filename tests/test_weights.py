"""The open weights: what `find_weights` accepts and says, and what `mcp-vega weights` fetches, shows and deletes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import httpx
import pytest
from conftest import serving_in_thread, wait_until
from hub_server import UNET, HubServer, files_of_vega, lora, safetensors, written
from services import require_packages
from starlette.responses import HTMLResponse, Response
from terminals import dialogue
from test_command_line import run, settings
from test_full_disk import full_disk

from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.cache import cache_folder, repository_folder, snapshot_folder
from mcp_vega.engine.weights.catalog import LORA, TRANSFORMERS, VEGA, VEGA_RT
from mcp_vega.engine.weights.download import fetch, needed_files
from mcp_vega.engine.weights.hub import Hub
from mcp_vega.engine.weights.located import Weights, find_weights

COMMAND = [sys.executable, "-m", "mcp_vega"]
SDXL = {*TRANSFORMERS, "mid_block.attentions.0.transformer_blocks.0", "down_blocks.2.attentions.0.transformer_blocks.9"}
IN_FOLDER = "Put the files of https://huggingface.co/segmind/Segmind-Vega"


ENDLESS = '[{"type": "file", "path": "model_index.json", "size": 1e999, "oid": "%s"}]' % ("0" * 40)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.go.set()


@pytest.fixture
def url(hub: HubServer) -> Iterator[str]:
    with serving_in_thread(hub.app()) as url:
        yield url
        hub.go.set()


@pytest.fixture
def environment(url: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a command that asks this hub and has a cache of its own."""
    return {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of that cache."""
    return tmp_path / "hf" / "hub"


def weights(*options: str, environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return run("weights", *options, folder=tmp_path, **environment)


# ---- to find them ----


@pytest.mark.parametrize("variant", ["fp16", None])
def test_weights_are_found_as_save_pretrained_writes_them(tmp_path: Path, variant: str | None) -> None:
    folder = written(tmp_path, files_of_vega(variant))
    assert find_weights(folder) == Weights(folder / "Segmind-Vega", folder / "Segmind-VegaRT", variant)


def test_a_tokenizer_in_one_file_is_enough(tmp_path: Path) -> None:
    files = {
        path: data for path, data in files_of_vega().items() if Path(path).name not in ("vocab.json", "merges.txt")
    }
    find_weights(written(tmp_path, {**files, "tokenizer/tokenizer.json": b"{}", "tokenizer_2/tokenizer.json": b"{}"}))


def test_a_lora_may_name_its_blocks_with_underscores(tmp_path: Path) -> None:
    names = {name.replace(".", "_") for name in TRANSFORMERS}
    find_weights(written(tmp_path, vega_rt=lora(names, "lora_unet_{}_attn1_to_q.lora_down.weight")))


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("model_index.json", None, "incomplete: model_index.json is missing"),
        ("vae/config.json", None, "incomplete: vae/config.json is missing"),
        ("tokenizer/merges.txt", None, "incomplete: tokenizer/merges.txt is missing"),
        (UNET, None, "incomplete: unet/diffusion_pytorch_model.safetensors is missing"),
        ("text_encoder_2/model.fp16.safetensors", None, "text_encoder_2/model.fp16.safetensors is missing"),
        ("unet/config.json", b'{"a', "unet/config.json is damaged or incomplete: it is no JSON"),
        (UNET, files_of_vega()[UNET][:-1], "is damaged or incomplete: it has "),
        (UNET, files_of_vega()[UNET][:100], "is damaged or incomplete: it ends after 100 bytes, within its header"),
        (UNET, b"", "is damaged or incomplete: it ends after 0 bytes"),
        (UNET, b"<!doctype html>" * 100, "is damaged or incomplete: it is no safetensors file"),
        (UNET, b"\x04\0\0\0\0\0\0\0null", "is damaged or incomplete: it is no safetensors file"),
        (
            UNET,
            files_of_vega(transformers=SDXL)[UNET],
            "diffusion_pytorch_model.fp16.safetensors is not that of Segmind-Vega",
        ),
    ],
)
def test_each_thing_that_is_wrong_with_vega_is_named(tmp_path: Path, path: str, data: bytes | None, said: str) -> None:
    folder = written(tmp_path)
    file = folder / "Segmind-Vega" / path
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(EngineError) as raised:
        find_weights(folder)
    assert said in raised.value.what
    assert str(folder / "Segmind-Vega") in raised.value.what
    assert raised.value.next_step.startswith(IN_FOLDER)


@pytest.mark.parametrize("data", [lora(SDXL), safetensors({"unet.conv_in.lora_A.weight"}), safetensors(())])
def test_the_lora_of_another_model_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(EngineError, match=r"pytorch_lora_weights\.safetensors is not that of Segmind-VegaRT"):
        find_weights(written(tmp_path, vega_rt=data))


def test_a_folder_without_weights_names_what_belongs_into_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        find_weights(tmp_path / "nowhere")
    assert raised.value.what == f"The weights of Segmind-Vega are not in {tmp_path / 'nowhere'}"
    assert raised.value.next_step.startswith(
        f"{IN_FOLDER} into {tmp_path / 'nowhere' / 'Segmind-Vega'}, or use no folder"
    )


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="this user may read every file")
def test_a_file_that_must_not_be_read_says_so(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "Segmind-Vega" / UNET).chmod(0)
    with pytest.raises(EngineError, match="cannot be read: Permission denied"):
        find_weights(folder)


def test_an_empty_cache_names_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        find_weights(None, {"HF_HOME": str(tmp_path)})
    assert raised.value.what == "The weights of Segmind-Vega are not in your Hugging Face cache"
    assert raised.value.next_step == "Run `mcp-vega weights`, which fetches them (3.5 GB)"


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HF_HOME": ""}, "/c/huggingface/hub"),
        ({}, "~/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_documented_variables_say(variables: dict[str, str], folder: str) -> None:
    assert cache_folder(variables) == Path(folder).expanduser()


def test_weights_are_found_without_torch_and_without_a_network() -> None:
    program = """
import mcp_vega.engine.weights.located, sys
print({"torch", "diffusers", "huggingface_hub", "httpx"} & set(sys.modules))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"


# ---- to fetch them ----


def test_weights_are_fetched_after_it_was_said_what_comes(
    hub: HubServer, url: str, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    host = url.removeprefix("http://")
    assert f"The open weights (Apache-2.0), from {host} into {cache}:" in done.stderr
    assert f"  segmind/Segmind-Vega, revision {VEGA.revision}: " in done.stderr
    assert f"  segmind/Segmind-VegaRT, revision {VEGA_RT.revision}: " in done.stderr
    assert "To fetch: " in done.stderr
    assert "Free on that disk: " in done.stderr
    assert f"Fetching Segmind-Vega/{UNET}: " in done.stderr
    assert done.stderr.endswith('To draw with them: `mcp-vega draw "a fox" --local`\n')
    assert hub.fetched == sorted([*files_of_vega(), LORA])
    found = find_weights(None, environment)
    assert found.variant == "fp16"
    assert (found.vega / UNET).read_bytes() == hub.files[VEGA.name][UNET]


def test_a_second_run_checks_the_files_and_fetches_none(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    weights("--yes", environment=environment, tmp_path=tmp_path)
    hub.ranges.clear()
    done = weights(environment=environment, tmp_path=tmp_path)
    assert (done.returncode, hub.fetched) == (0, [])
    assert done.stderr.startswith("The weights are complete")


def test_a_damaged_file_is_fetched_again(hub: HubServer, environment: dict[str, str], tmp_path: Path) -> None:
    weights("--yes", environment=environment, tmp_path=tmp_path)
    file = find_weights(None, environment).vega / UNET
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    hub.ranges.clear()
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.fetched == [UNET]
    assert file.read_bytes() == hub.files[VEGA.name][UNET]


def parts(cache: Path, size: int) -> list[Path]:
    """The files of which so many bytes were fetched."""
    with suppress(FileNotFoundError):  # one was completed, and has another name now
        return [each for each in cache.rglob("*.incomplete") if each.stat().st_size == size]
    return []


def test_a_download_that_was_killed_is_continued(
    hub: HubServer, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    hub.held[UNET] = 5000
    variables = {**settings(tmp_path / "gallery", tmp_path), **environment}
    with subprocess.Popen([*COMMAND, "weights", "--yes"], env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            (part,) = wait_until(lambda: parts(cache, 5000))
            done = weights("--yes", environment=environment, tmp_path=tmp_path)
        finally:
            process.kill()
    assert f"Error: Another `mcp-vega weights` is changing {cache}.\nNext: Wait until it has ended" in done.stderr
    with pytest.raises(EngineError, match="incomplete: "):
        find_weights(None, environment)
    said = weights("--status", environment=environment, tmp_path=tmp_path)
    assert said.returncode == 1
    assert "5.0 kB of a file that is not complete; the next download continues it." in said.stdout
    hub.held.clear()
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.ranges[UNET] == [None, "bytes=5000-"]
    assert not part.exists()
    find_weights(None, environment)


def test_ctrl_c_says_that_the_next_run_continues(
    hub: HubServer, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    hub.held[UNET] = 5000
    variables = {**settings(tmp_path / "gallery", tmp_path), **environment}
    with subprocess.Popen([*COMMAND, "weights", "--yes"], env=variables, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: parts(cache, 5000))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith("Interrupted. What is fetched stays; run this again to continue.\n")


def test_a_connection_that_breaks_is_continued_in_the_same_run(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.cut[UNET] = 4000
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.ranges[UNET] == [None, "bytes=4000-"]


def test_a_hub_that_sends_only_whole_files_is_understood(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.has_ranges = False
    hub.cut[UNET] = 4000
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.ranges[UNET] == [None, "bytes=4000-"]


def test_a_hub_that_fails_again_and_again_is_given_up(hub: HubServer, url: str, tmp_path: Path) -> None:
    with httpx.Client(trust_env=False) as http:
        files = needed_files(Hub(http, url))
        hub.answer = Response("no", 503)
        with pytest.raises(EngineError, match=r"cannot be fetched from 127\.0\.0\.1:\d+: .* HTTP 503") as raised:
            fetch(Hub(http, url), tmp_path, files[0], lambda _: None, pause=0)
    assert raised.value.next_step == "Run `mcp-vega weights` again; it continues"


def test_a_list_with_other_paths_and_digests_writes_no_other_file(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.files[VEGA.name]["../x.json"] = b"{}"
    hub.files[VEGA.name]["..\\y/x.json"] = b"{}"
    hub.files[VEGA.name]["unet/deep/x.json"] = b"{}"
    hub.files[VEGA.name]["/mcp-vega-x.json"] = b"{}"
    hub.files[VEGA.name]["C:/x.json"] = b"{}"
    hub.files[VEGA.name]["unet/\0x.json"] = b"{}"
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.fetched == sorted([*files_of_vega(), LORA])
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x.json", "..\\y")]
    entry = '[{"type": "file", "path": "model_index.json", "size": 2, "oid": "../../x"}]'
    hub.answer = Response(entry)
    assert "sent no list of the files" in weights("--yes", environment=environment, tmp_path=tmp_path).stderr


def test_a_file_with_another_content_than_the_hub_states_is_deleted(
    hub: HubServer, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    hub.wrong.add(UNET)
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 1
    assert f"Error: {UNET} from 127.0.0.1" in done.stderr
    assert (
        "has another content than the hub states, so it was deleted.\nNext: Run `mcp-vega weights` again" in done.stderr
    )
    assert not list(cache.rglob("*.incomplete"))
    hub.wrong.clear()
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0


def test_a_disk_that_fills_up_is_a_clear_error_and_keeps_what_was_fetched(
    hub: HubServer, environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    with full_disk():
        done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"Error: The disk of {cache} is full.\nNext: Free some space and run `mcp-vega weights` again; it continues.\n"
    )
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert ["bytes=100-"] in [each[1:] for each in hub.ranges.values()]


def test_too_little_space_is_said_before_anything_is_fetched(
    hub: HubServer, environment: dict[str, str], tmp_path: Path
) -> None:
    hub.stated_bytes[UNET] = 10**18
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 1
    assert "has too little space: " in done.stderr
    assert "Next: Free so much, or set HF_HOME to a folder on a larger disk" in done.stderr
    assert hub.fetched == []


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="this user may write everywhere")
def test_a_cache_that_must_not_be_written_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir(mode=0o500)
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert "cannot be changed: Permission denied.\nNext: Give this user the right to change it" in done.stderr


def test_a_file_in_place_of_the_cache_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("")
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 1
    assert "cannot be changed: " in done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (HTMLResponse("<h1>Sign in to this network</h1>"), "sent no list of the files of segmind/Segmind-Vega"),
        (Response('[{"type": "file"}]'), "sent no list of the files of segmind/Segmind-Vega"),
        (Response("[" * 100_000), "sent no list of the files of segmind/Segmind-Vega"),
        (Response(ENDLESS), "sent no list of the files of segmind/Segmind-Vega"),
        (Response("[]", headers={"link": '<?again>; rel="next"'}), "sent no list of the files of segmind/Segmind-Vega"),
        (Response("{}"), "does not list model_index.json, which one needs"),
        (Response("no", 404), f"refused segmind/Segmind-Vega at revision {VEGA.revision} with HTTP 404"),
        (Response("no", 503), "cannot be reached: 127.0.0.1"),
    ],
    ids=["HTML", "no entry", "deep JSON", "endless file", "endless list", "no file", "404", "503"],
)
def test_a_hub_that_answers_otherwise_is_a_clear_error(
    hub: HubServer, environment: dict[str, str], tmp_path: Path, answer: Response, said: str
) -> None:
    hub.answer = answer
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "\nNext: " in done.stderr


def test_without_a_network_the_error_says_what_to_check(tmp_path: Path) -> None:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "hf")}
    done = weights("--yes", environment=environment, tmp_path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: 127.0.0.1:1 cannot be reached: " in done.stderr
    assert "Next: Check the network, and HTTPS_PROXY and HF_ENDPOINT if they are set." in done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing may be fetched.\nNext: Unset it"),
        ({"HF_ENDPOINT": "nonsense"}, "nonsense cannot be reached: "),
        ({"HF_ENDPOINT": "http://user:secret@127.0.0.1:1"}, "Error: 127.0.0.1:1 cannot be reached: "),
        ({"HF_ENDPOINT": "https://hub.example:port"}, "The environment names an address or a file that cannot be used"),
        (
            {"HF_ENDPOINT": "https://hub.example", "HTTPS_PROXY": "ftp://user:secret@proxy.example"},
            "The environment names an address or a file that cannot be used",
        ),
        ({"MCP_VEGA_WEIGHTS": "/srv/weights"}, "MCP_VEGA_WEIGHTS names the folder /srv/weights"),
    ],
)
def test_variables_that_cannot_be_used_are_named(
    hub: HubServer, environment: dict[str, str], tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    done = weights("--yes", environment={**environment, **variables}, tmp_path=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert hub.fetched == []


# ---- to ask ----


@pytest.mark.parametrize("option", [(), ("--remove",)])
def test_without_a_terminal_nothing_is_done_until_yes_is_given(
    hub: HubServer, environment: dict[str, str], tmp_path: Path, option: tuple[str, ...]
) -> None:
    if option:
        weights("--yes", environment=environment, tmp_path=tmp_path)
        hub.ranges.clear()
    done = weights(*option, environment=environment, tmp_path=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("there is no terminal to ask at (invalid_arguments).\nNext: Add --yes.\n")
    assert hub.fetched == []
    if option:
        find_weights(None, environment)


@pytest.mark.skipif(sys.platform == "win32", reason="terminals are those of POSIX")
def test_at_a_terminal_it_asks_and_shows_a_bar(hub: HubServer, environment: dict[str, str], tmp_path: Path) -> None:
    variables = {**settings(tmp_path / "gallery", tmp_path), **environment, "TERM": "xterm"}
    code, seen = dialogue([*COMMAND, "weights"], [("Fetch them? [Y/n] ", "n\n")], variables)
    assert (code, hub.fetched) == (1, [])
    assert "Nothing was fetched." in seen
    code, seen = dialogue([*COMMAND, "weights"], [("Fetch them? [Y/n] ", "\n")], variables)
    assert code == 0
    assert "[......" in seen
    assert "/s, Segmind-Vega/" in seen
    code, seen = dialogue([*COMMAND, "weights", "--remove"], [("Delete them? [y/N] ", "\n")], variables)
    assert code == 1
    assert "Nothing was deleted." in seen
    find_weights(None, environment)


# ---- to show and to delete them ----


def test_status_says_where_the_weights_are(environment: dict[str, str], tmp_path: Path) -> None:
    missing = weights("--status", environment=environment, tmp_path=tmp_path)
    assert missing.returncode == 1
    assert missing.stdout == (
        "Segmind-Vega: not complete\n"
        "  The weights of Segmind-Vega are not in your Hugging Face cache.\n"
        "Segmind-VegaRT: not complete\n"
        "  The weights of Segmind-VegaRT are not in your Hugging Face cache.\n"
        "Next: Run `mcp-vega weights`, which fetches them (3.5 GB).\n"
    )
    weights("--yes", environment=environment, tmp_path=tmp_path)
    there = weights("--status", environment=environment, tmp_path=tmp_path)
    assert there.returncode == 0
    vega, vega_rt = there.stdout.splitlines()
    assert vega.endswith(f" kB in {find_weights(None, environment).vega}")
    assert vega_rt.startswith("Segmind-VegaRT: 1")


def test_status_is_about_the_folder_that_the_settings_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", files_of_vega(None))
    there = weights("--status", environment={"MCP_VEGA_WEIGHTS": str(folder)}, tmp_path=tmp_path)
    assert (there.returncode, len(there.stdout.splitlines())) == (0, 2)
    assert str(folder / "Segmind-Vega") in there.stdout
    shutil.rmtree(folder / "Segmind-VegaRT")
    assert weights("--status", environment={"MCP_VEGA_WEIGHTS": str(folder)}, tmp_path=tmp_path).returncode == 1


def test_weights_are_deleted_with_what_was_fetched_in_part(
    environment: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    weights("--yes", environment=environment, tmp_path=tmp_path)
    part = repository_folder(cache, VEGA) / "blobs" / "0.mcp-vega.incomplete"
    part.write_bytes(b"half")
    done = weights("--remove", "--yes", environment=environment, tmp_path=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith(f"Segmind-Vega and Segmind-VegaRT in {cache} would be deleted: ")
    assert not [path for path in cache.rglob("*") if path.is_file() and ".lock" not in path.name]
    again = weights("--remove", "--yes", environment=environment, tmp_path=tmp_path)
    assert (again.returncode, again.stderr) == (0, f"There are no weights in {cache}.\n")


def test_what_another_revision_needs_is_not_deleted(environment: dict[str, str], cache: Path, tmp_path: Path) -> None:
    weights("--yes", environment=environment, tmp_path=tmp_path)
    snapshot = snapshot_folder(cache, VEGA)
    other = snapshot.with_name("1" * 40) / UNET
    other.parent.mkdir(parents=True)
    other.symlink_to(os.path.relpath((snapshot / UNET).resolve(), other.parent))
    content = other.read_bytes()
    assert weights("--remove", "--yes", environment=environment, tmp_path=tmp_path).returncode == 0
    assert not snapshot.exists()
    assert "There are no weights in" in weights("--remove", environment=environment, tmp_path=tmp_path).stderr
    assert other.read_bytes() == content
    assert [path.name for path in (repository_folder(cache, VEGA) / "blobs").iterdir()] == [other.resolve().name]
    # What is still there need not be fetched again.
    assert weights("--yes", environment=environment, tmp_path=tmp_path).returncode == 0


# ---- beside huggingface_hub ----


@pytest.fixture
def snapshot_download() -> Callable[..., str]:
    """The function of huggingface_hub, which comes with the extra `local`."""
    require_packages("huggingface_hub", marker="engine")
    return import_module("huggingface_hub").snapshot_download


@pytest.mark.engine
def test_huggingface_hub_finds_what_was_fetched(
    environment: dict[str, str], cache: Path, tmp_path: Path, snapshot_download: Callable[..., str]
) -> None:
    weights("--yes", environment=environment, tmp_path=tmp_path)
    for each in (VEGA, VEGA_RT):
        found = snapshot_download(each.name, revision=each.revision, cache_dir=cache, local_files_only=True)
        assert Path(found) == snapshot_folder(cache, each)


@pytest.mark.engine
def test_what_huggingface_hub_has_fetched_is_found(
    hub: HubServer, environment: dict[str, str], cache: Path, tmp_path: Path, snapshot_download: Callable[..., str]
) -> None:
    url = environment["HF_ENDPOINT"]
    for each in (VEGA, VEGA_RT):
        snapshot_download(
            each.name, revision=each.revision, allow_patterns=list(each.patterns), cache_dir=cache, endpoint=url
        )
    find_weights(None, environment)
    hub.ranges.clear()
    assert weights(environment=environment, tmp_path=tmp_path).returncode == 0
    assert hub.fetched == []
