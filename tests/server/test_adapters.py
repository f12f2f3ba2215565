"""Adapters beside the model (`--lora-modules`): who answers is what a request's "model" names."""

import json
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from chats import CHAT, COMPLETIONS, chat, chat_stream, user
from servers import PATIENCE, program, serve
from wire import ask, events, get, post

PROMPT = list(range(200, 260))
TOKENS = 12
NAMES = ["nano", "all", "attention"]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60 * PATIENCE)


@pytest.fixture(scope="module")
def adapters(nano, tmp_path_factory) -> dict[str, str]:
    """Two trained adapters, of other groups and under other names."""
    work = tmp_path_factory.mktemp("adapters")
    steps = [{"sequences": [{"ids": list(range(b, b + 40)), "labels": list(range(b + 7, b + 47))}]}
             for b in (300, 100, 500)]
    (work / "batches.json").write_text(json.dumps({"steps": steps}))
    options = {"all": ["--lora", "attn,dense,shared,experts", "--rank", "4"],
               "attention": ["--lora", "attn", "--lora-names", "released", "--lora-seed", "3"]}
    for name, flags in options.items():
        trained = run("train", nano, "--batches", work / "batches.json", "--lr", "0.1", *flags,
                      "--out", work / name)
        assert trained.returncode == 0, trained.stderr
    return {name: str(work / name) for name in options}


@pytest.fixture(scope="module")
def adapted(nano, adapters):
    """`m3 serve` of the model and both adapters."""
    server = serve(nano, "--served-model-name", "nano", "--max-num-seqs", "8", "--kv-cache-tokens",
                   "8192", "--enable-lora", "--max-loras", "2", "--lora-modules",
                   f"all={adapters['all']}",
                   json.dumps({"name": "attention", "path": adapters["attention"]}))
    yield server
    assert server.stop() == 0, server.last_words()


def completion(server, model: str, **fields) -> dict:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True}
    answer = ask(server, COMPLETIONS, body | fields)
    assert answer["model"] == model
    return answer


def ids_of(answer: dict) -> list[int]:
    return answer["choices"][0]["token_ids"]


@pytest.fixture(scope="module")
def generated(nano, adapters, tmp_path_factory) -> dict[str, list[int]]:
    """What `m3 generate` says, with each adapter and without."""
    prompt = tmp_path_factory.mktemp("prompt") / "ids.json"
    prompt.write_text(json.dumps(PROMPT))
    answers = {}
    for name in NAMES:
        lora = ["--lora", adapters[name]] if name in adapters else []
        told = run("generate", nano, "--ids-file", prompt, "--max-tokens", TOKENS, "--temperature",
                   0, "--ignore-eos", "--json", *lora)
        assert told.returncode == 0, told.stderr
        answers[name] = json.loads(told.stdout)["ids"]
    assert len({tuple(ids) for ids in answers.values()}) == 3, "the adapters change nothing"
    return answers


def test_each_answers_as_the_command_line_does(adapted, generated):
    for name in NAMES:
        assert ids_of(completion(adapted, name)) == generated[name]


def test_without_a_model_the_base_answers(adapted, generated):
    body = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}
    answer = ask(adapted, COMPLETIONS, body)
    assert answer["model"] == "nano" and ids_of(answer) == generated["nano"]


def test_together_they_answer_as_alone(adapted, generated):
    """With prompts that share their pages with their like alone."""
    with ThreadPoolExecutor(9) as pool:
        for _ in range(2):
            names = NAMES * 3
            answers = list(pool.map(lambda name: ids_of(completion(adapted, name)), names))
            assert answers == [generated[name] for name in names]


def test_pages_are_those_of_one_adapter(adapted, generated):
    prompt = [7] + PROMPT
    def cached(name: str) -> int:
        usage = completion(adapted, name, prompt=prompt)["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]
    assert [cached(name) for name in NAMES] == [0, 0, 0]
    assert all(cached(name) > 0 for name in NAMES)


def test_models_are_listed_as_vllm_does(adapted, adapters):
    listed = get(adapted, "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == NAMES
    assert listed[0]["root"] == "nano" and listed[0]["parent"] is None
    for model in listed[1:]:
        assert model["object"] == "model" and model["parent"] == "nano"
        assert model["root"] == adapters[model["id"]]
        assert get(adapted, "/v1/models/" + model["id"]).json() == model


def test_every_protocol_asks_them(adapted):
    """And tells whose answer it is."""
    said = {}
    for name in NAMES:
        body = user("Hello", model=name, max_tokens=TOKENS, temperature=0, ignore_eos=True)
        whole = chat(adapted, body)
        assert chat_stream(adapted, body).only.said() == whole.only.said()
        assert {e.data["model"] for e in events(adapted, CHAT, body)[:-1]} == {name}
        answer = ask(adapted, CHAT, body)
        message = ask(adapted, "/v1/messages", {
            "model": name, "max_tokens": TOKENS, "temperature": 0,
            "messages": [{"role": "user", "content": "Hello"}]})
        response = ask(adapted, "/v1/responses", {
            "model": name, "max_output_tokens": TOKENS, "temperature": 0, "input": "Hello"})
        assert answer["model"] == message["model"] == response["model"] == name
        said[name] = (whole.only.said(), json.dumps(message["content"]),
                      json.dumps([item.get("content") for item in response["output"]]))
        assert ask(adapted, "/v1/messages/count_tokens", {
            "model": name, "messages": [{"role": "user", "content": "Hello"}]})["input_tokens"] > 0
    for protocol in range(3):
        assert len({said[name][protocol] for name in NAMES}) == 3, protocol


@pytest.mark.parametrize("path, body", [
    (CHAT, user("Hi")), (COMPLETIONS, {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}), ("/v1/messages", user("Hi", max_tokens=2))])
def test_what_is_not_there_is_not_found(adapted, path, body):
    answer = post(adapted, path, body | {"model": "absent"})
    assert answer.status == 404
    assert all(name in answer.json()["error"]["message"] for name in [*NAMES, "absent"])


def test_drafts_change_nothing(start, nano, adapters, generated):
    drafting = start(serve, nano, "--served-model-name", "nano", "--speculative", "ngram",
                     "--lora-modules", *(f"{name}={path}" for name, path in adapters.items()))
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda name: ids_of(completion(drafting, name)), NAMES))
    assert answers == [generated[name] for name in NAMES]


def write_adapter(directory, module: str, rows: int, cols: int):
    """Zeros of rank 1, as `peft` would write them."""
    header, offset = {}, 0
    for name, shape in (("lora_A", [1, cols]), ("lora_B", [rows, 1])):
        size = 4 * shape[0] * shape[1]
        header[f"base_model.model.{module}.{name}.weight"] = {
            "dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + bytes(offset))
    (directory / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [module]}))


def test_the_vision_tower_is_everybodys(start, nano, tmp_path):
    config = json.loads((pathlib.Path(nano) / "config.json").read_text())
    write_adapter(tmp_path / "sees", "multi_modal_projector.linear_1",
                  config["projector_hidden_size"], config["vision_config"]["hidden_size"])
    modules = ["--lora-modules", f"sees={tmp_path / 'sees'}"]
    told = run("serve", nano, "--port", 0, *modules)
    assert told.returncode == 1 and "vision tower" in told.stderr, told.stderr
    blind = start(serve, nano, "--language-model-only", *modules)
    assert completion(blind, "sees")["choices"]


@pytest.mark.parametrize("modules, words", [
    (["all"], "NAME=DIR"), (["=x"], "NAME=DIR"), (["x="], "NAME=DIR"),
    (["{\"name\": \"x\"}"], "path"), (["nano={all}"], "two models"),
    (["x={all}", "x={all}"], "two models"), (["x={nano}"], "--lora-modules x: ")])
def test_mistakes_are_told_at_the_start(nano, adapters, modules, words):
    for name, path in [*adapters.items(), ("nano", nano)]:
        modules = [module.replace("{" + name + "}", path) for module in modules]
    told = run("serve", nano, "--port", 0, "--served-model-name", "nano", "--lora-modules",
               *modules)
    assert told.returncode == 1 and words in told.stderr, told.stderr
