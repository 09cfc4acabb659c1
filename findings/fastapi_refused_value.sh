#!/usr/bin/env bash
# FastAPI refuses a text with half a surrogate pair (valid JSON: "\ud83d") as status 500, not 422: its
# answer repeats the refused value, which UTF-8 cannot hold.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.3 httpx 2>/dev/null
cat > "$work/try.py" <<'PY'
import fastapi, pydantic
from fastapi.testclient import TestClient
class Question(pydantic.BaseModel):
    text: str
app = fastapi.FastAPI()
@app.post("/ask")
def ask(question: Question) -> str:
    return question.text
client = TestClient(app, raise_server_exceptions=False)
print(fastapi.__version__, pydantic.VERSION)
for name, body in (("number", '{"text": 3}'), ("half a pair", '{"text": "\\ud83d"}'), ("whole pair", '{"text": "\\ud83d\\ude00"}')):
    print(f"{name}: status", client.post("/ask", content=body, headers={"Content-Type": "application/json"}).status_code)
PY
"$work/env/bin/python" -W ignore "$work/try.py" | tee "$work/seen"
grep -q "^0.165.0 2.14.3" "$work/seen"
grep -q "^number: status 422" "$work/seen"
grep -q "^half a pair: status 500" "$work/seen"
grep -q "^whole pair: status 200" "$work/seen"
echo "as found: answer RequestValidationError yourself, without the value"
