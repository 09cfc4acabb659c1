// Shows, searches and filters the test answers embedded in the page.
(() => {
  const KINDS = {
    all: () => true,
    "student wrong": (q, right) => right < 1,
    "student right": (q, right) => right === 1,
    "student and teacher disagree": (q, right, label) => q[3] !== null && q[3] !== label,
    "only the student right": (q, right) => right === 1 && q[4] !== null && q[4] < 1,
    "only the teacher right": (q, right) => right < 1 && q[4] === 1,
    "both wrong": (q, right) => right < 1 && q[4] !== null && q[4] < 1,
  };

  function answer(label, right, rationale) {
    const shown = element("div");
    if (label === null || label === undefined) {
      shown.append(element("span", "-"));
      return shown;
    }
    const good = right === 1;
    const text = label.trim() ? label : "(no readable answer)";
    shown.append(element("span", (good ? "✓ " : "✗ ") + text, {class: good ? "right" : "wrong"}));
    if (rationale && rationale.trim()) shown.append(element("div", rationale));
    return shown;
  }

  function browser(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    const [run, kind, gold, search] = ["run", "kind", "gold", "search"].map(part);
    const fill = (select, names) =>
      select.replaceChildren(...names.map((name, i) => new Option(name, String(i))));
    fill(run, data.runs.map((r) => r.name));
    fill(kind, Object.keys(KINDS));

    function golds() {
      const labels = [...new Set(data.sets[data.runs[run.value].set].map((q) => q[2]))].sort();
      fill(gold, labels.length <= 50 ? ["any", ...labels] : ["any"]);
      gold.closest("label").hidden = labels.length > 50;
    }

    function find() {
      const chosen = data.runs[run.value];
      const questions = data.sets[chosen.set];
      const test = Object.values(KINDS)[kind.value];
      const label = gold.value === "0" ? null : gold.selectedOptions[0].text;
      show(questions.map((_, i) => i).filter((i) => {
        const q = questions[i];
        const rationale = chosen.rationales ? chosen.rationales[i] : "";
        return test(q, chosen.right[i], chosen.labels[i])
          && (label === null || q[2] === label)
          && holdsWords(search.value, [q[0], q[1], q[2], q[3], q[5], chosen.labels[i], rationale]);
      }));
    }

    function row(i) {
      const chosen = data.runs[run.value];
      const q = data.sets[chosen.set][i];
      const line = element("tr");
      const question = element("td", q[1]);
      question.append(element("div", q[0], {class: "id"}));
      const cells = [question, element("td", q[2]), element("td"), element("td")];
      cells[2].append(answer(q[3], q[4], q[5]));
      cells[3].append(answer(chosen.labels[i], chosen.right[i], chosen.rationales && chosen.rationales[i]));
      ["question", "gold", "teacher", "student"].forEach((head, j) => (cells[j].dataset.head = head));
      line.append(...cells);
      return line;
    }

    const show = pager(part, row, () => data.sets[data.runs[run.value].set].length);

    run.addEventListener("change", () => { golds(); find(); });
    kind.addEventListener("change", find);
    gold.addEventListener("change", find);
    search.addEventListener("input", find);
    golds();
    find();
  }

  document.querySelectorAll("[data-browser]").forEach(browser);
})();
