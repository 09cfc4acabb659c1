#!/usr/bin/env bash
# The caches of DSPy and LiteLLM leave the server's address out of their keys. A second teacher that another
# server gives under the same model name (vLLM's or llama.cpp's, before and after a change of weights) is
# never asked: its answers are the first one's. DSPy's cache is on by default and lies on the disk, so that
# it is so in the next process too. LiteLLM's, once switched on, also leaves out what a server adds to
# OpenAI's fields (min_p, guided_choice, extra_body).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  dspy==3.4.1 litellm==1.110.2 fastapi==0.165.0 orjson==3.13.0 soundfile==0.14.0 2>/dev/null
cat > "$work/try.py" <<'PY'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
import dspy, litellm
class Teacher(BaseHTTPRequestHandler):
    def log_message(self, *arguments): pass
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked += 1
        message = {"role": "assistant", "content": self.server.answer}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
        body = json.dumps(reply | {"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
def start(answer):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.answer, server.asked = answer, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
def address(server):
    return f"http://127.0.0.1:{server.server_port}/v1"
weak, strong = start("a"), start("b")
servers = {"weak": weak, "strong": strong}
questions = [f"question {number}" for number in range(20)]
def told(name, server, ask):
    before = server.asked
    answers = [ask(question) for question in questions]
    print(f"{name}: answers {sorted(set(answers))}, {server.asked - before} of 20 requests")
print("dspy", version("dspy"), "litellm", version("litellm"))
for kind in sys.argv[1:]:
    model = dspy.LM("openai/teacher", api_base=address(servers[kind]), api_key="none", temperature=0.7)
    told(f"dspy, {kind} (says {servers[kind].answer})", servers[kind], lambda text: model(text)[0])
def lite(server, **more):
    def ask(text):
        call = dict(model="openai/teacher", messages=[{"role": "user", "content": text}], api_key="none")
        reply = litellm.completion(**call, api_base=address(server), caching=True, **more)
        return reply.choices[0].message.content
    return ask
if len(sys.argv) == 3:
    litellm.cache = litellm.Cache()
    told("litellm, weak", weak, lite(weak))
    told("litellm, strong", strong, lite(strong))
    told("litellm, weak, seed=1", weak, lite(weak, seed=1))
    told("litellm, weak, guided_choice", weak, lite(weak, guided_choice=["yes", "no"]))
    told("litellm, weak, extra_body", weak, lite(weak, extra_body={"min_p": 0.1}))
    litellm.enable_caching_on_provider_specific_optional_params = True
    told("litellm, weak, extra_body, with the switch", weak, lite(weak, extra_body={"min_p": 0.1}))
    told("litellm, strong, with the switch", strong, lite(strong))
PY
export DSPY_CACHEDIR="$work/cache" LITELLM_LOCAL_MODEL_COST_MAP=True
"$work/env/bin/python" "$work/try.py" weak strong 2>/dev/null | sed "s/^/first: /" | tee "$work/seen"
"$work/env/bin/python" "$work/try.py" strong 2>/dev/null | sed "s/^/next process: /" | tee -a "$work/seen"
grep -q "^first: dspy 3.4.1 litellm 1.110.2" "$work/seen"
grep -q "^first: dspy, weak (says a): answers \['a'\], 20 of 20 requests" "$work/seen"
grep -q "^first: dspy, strong (says b): answers \['a'\], 0 of 20 requests" "$work/seen"
grep -q "^next process: dspy, strong (says b): answers \['a'\], 0 of 20 requests" "$work/seen"
grep -q "^first: litellm, weak: answers \['a'\], 20 of 20 requests" "$work/seen"
grep -q "^first: litellm, strong: answers \['a'\], 0 of 20 requests" "$work/seen"
grep -q "^first: litellm, weak, seed=1: answers \['a'\], 20 of 20 requests" "$work/seen"
grep -q "^first: litellm, weak, guided_choice: answers \['a'\], 0 of 20 requests" "$work/seen"
grep -q "^first: litellm, weak, extra_body: answers \['a'\], 0 of 20 requests" "$work/seen"
grep -q "^first: litellm, weak, extra_body, with the switch: answers \['a'\], 20 of 20 requests" "$work/seen"
grep -q "^first: litellm, strong, with the switch: answers \['a'\], 0 of 20 requests" "$work/seen"
echo "as found: name every teacher differently, or put the address into the cache's key"
