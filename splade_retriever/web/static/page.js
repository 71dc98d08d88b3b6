"use strict";
(() => {
  const KINDS = {
    "literal": ["literal", "in query and text"],
    "query expanded": ["query", "added to the query"],
    "text expanded": ["text-side", "added to the text"],
    "both expanded": ["both", "added to both"],
  };
  const MAX_TOKENS = 12;
  const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
  const byId = (id) => document.getElementById(id);

  /** Make an element. Children that are strings become text, never HTML. */
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
    return made;
  }

  /** Show control characters, which could reorder or hide text, as escapes. */
  function visible(text) {
    return text.replace(CONTROL, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  // -- one hit ---------------------------------------------------------------------------------------------

  function hitView(hit, actions) {
    const explanation = hit.explanation;
    const article = element("article", { "aria-labelledby": `hit-${hit.rank}` });
    const head = element(
      "div", { class: "head" },
      element("h2", { id: `hit-${hit.rank}` }, `${hit.rank}. ${hit.id}`),
      element("span", { class: "score" }, `score ${hit.score.toFixed(3)}`),
      ...(actions ? [compareButton(hit, actions)] : []),
    );
    const text = element("div", { class: "text", tabindex: "0", role: "group", "aria-label": `Text of ${hit.id}` });
    const tokens = element("ul", { class: "tokens", "aria-label": `Tokens of the score of ${hit.id}` });
    article.append(head, metadataView(hit.metadata), text, sharesView(explanation), tokens);
    if (explanation.unmatched.length) article.append(unmatchedView(explanation.unmatched));
    const state = { hit, text, tokens, origins: null, actions };
    drawText(state);
    drawTokens(state);
    return article;
  }

  function metadataView(metadata) {
    const parts = Object.entries(metadata).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    return element("p", { class: "quiet" }, parts.join("   "));
  }

  function sharesView(explanation) {
    const parts = Object.entries(explanation.shares).filter(([, share]) => share > 0);
    const shown = parts.sort((a, b) => b[1] - a[1]).map(([kind, share]) => `${Math.round(share * 100)}% ${kind}`);
    const controls = explanation.controls.length ? ` Controls: ${explanation.controls.join("; ")}.` : "";
    return element("p", { class: "quiet" }, `${shown.join(", ")}.${controls}`);
  }

  function unmatchedView(unmatched) {
    const names = unmatched.slice(0, MAX_TOKENS).map((token) => (token.in_query ? token.token : `~${token.token}`));
    return element("p", { class: "quiet" }, `Not matched: ${names.join(", ")}`);
  }

  /** The words of the text that a token stands for: where it is, or, once known, where it comes from. */
  function placesOf(contribution) {
    return contribution.text_origin ? [contribution.text_origin] : contribution.places;
  }

  function drawText(state) {
    const { hit, text } = state;
    const characters = Array.from(hit.text); // positions count characters, not UTF-16 units
    const best = Math.max(...hit.explanation.marks.map((mark) => mark[2]), 0);
    const marks = hit.explanation.marks
      .filter((mark) => mark[2] >= 0.05 * best)
      .map(([start, end, score, inQuery]) => ({ start, end, score, kind: inQuery ? "" : "expanded" }));
    const known = new Set(marks.map((mark) => mark.start));
    for (const contribution of hit.explanation.contributions) {
      for (const [start, end] of placesOf(contribution)) {
        if (!known.has(start)) marks.push({ start, end, score: contribution.score, kind: "origin" });
        known.add(start);
      }
    }
    marks.sort((a, b) => a.start - b.start);
    text.replaceChildren();
    let at = 0;
    for (const mark of marks) {
      if (mark.start < at) continue;
      text.append(visible(characters.slice(at, mark.start).join("")));
      const tabindex = text.querySelector("mark") ? "-1" : "0";
      const word = element("mark", { class: mark.kind, tabindex, title: mark.score.toFixed(3) }, characters.slice(mark.start, mark.end).join(""));
      word.dataset.start = mark.start;
      word.addEventListener("mouseenter", () => chooseWord(state, mark.start));
      word.addEventListener("focus", () => chooseWord(state, mark.start));
      word.addEventListener("mouseleave", () => choose(state, null));
      word.addEventListener("blur", () => choose(state, null));
      text.append(word);
      at = mark.end;
    }
    text.append(visible(characters.slice(at).join("")));
    text.onkeydown = (event) => moveFocus(event, text, "mark");
  }

  function drawTokens(state) {
    const { hit, tokens } = state;
    const shown = hit.explanation.contributions.slice(0, MAX_TOKENS);
    const max = shown.length ? shown[0].score : 1;
    tokens.replaceChildren();
    shown.forEach((contribution, place) => {
      const [kind, words] = KINDS[contribution.kind];
      const bar = element("span", { class: `bar ${kind}` });
      bar.style.width = `${Math.max(1, (100 * contribution.score) / max)}%`;
      const pieces = contribution.pieces.length > 1 ? `, tokens ${contribution.pieces.join(" ")}` : "";
      const control = contribution.control ? `, ${contribution.control}` : "";
      const button = element(
        "button",
        {
          type: "button", tabindex: place === 0 ? "0" : "-1",
          title: `${contribution.query_weight.toFixed(2)} x ${contribution.document_weight.toFixed(2)}${pieces}${control}`,
        },
        element("span", { class: "name" }, contribution.token),
        element("span", { class: "value" }, contribution.score.toFixed(3)),
        bar,
        element("span", { class: "spoken" }, `${words}${control}`),
      );
      button.addEventListener("mouseenter", () => choose(state, place));
      button.addEventListener("focus", () => choose(state, place));
      button.addEventListener("mouseleave", () => choose(state, null));
      button.addEventListener("blur", () => choose(state, null));
      tokens.append(element("li", {}, button));
    });
    tokens.onkeydown = (event) => moveFocus(event, tokens, "button");
    const rest = hit.explanation.contributions.slice(MAX_TOKENS);
    if (rest.length) {
      const sum = rest.reduce((total, contribution) => total + contribution.score, 0);
      tokens.append(element("li", { class: "quiet" }, `and ${rest.length} more: ${sum.toFixed(3)}`));
    }
  }

  /** A list of tokens and the words of a text are one tab stop each; the arrow keys move inside. */
  function moveFocus(event, place, selector) {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const stops = [...place.querySelectorAll(selector)];
    const next = stops[stops.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    stops.forEach((stop) => stop.setAttribute("tabindex", stop === next ? "0" : "-1"));
    next.focus();
  }

  /** Highlight the words of a token; for an expansion, fetch the word that it comes from. */
  async function choose(state, place) {
    state.place = place;
    highlight(state);
    const contribution = place === null ? null : state.hit.explanation.contributions[place];
    if (!contribution || placesOf(contribution).length || !state.actions || state.origins) return;
    state.origins = state.actions.explain(state.hit);
    const traced = await state.origins;
    if (!traced) return;
    state.hit.explanation = traced.explanation;
    drawText(state);
    highlight(state);
  }

  function highlight({ hit, text, tokens, place }) {
    const contribution = place === null || place === undefined ? null : hit.explanation.contributions[place];
    const starts = new Set(contribution ? placesOf(contribution).map(([start]) => String(start)) : []);
    for (const word of text.querySelectorAll("mark")) word.classList.toggle("chosen", starts.has(word.dataset.start));
    tokens.querySelectorAll("button").forEach((button, n) => button.classList.toggle("chosen", n === place));
  }

  function chooseWord({ hit, text, tokens }, start) {
    const stands = (contribution) => placesOf(contribution).some(([begin]) => begin === start);
    const contributions = hit.explanation.contributions;
    tokens.querySelectorAll("button").forEach((button, n) => button.classList.toggle("chosen", stands(contributions[n])));
    for (const word of text.querySelectorAll("mark")) word.classList.toggle("chosen", word.dataset.start === String(start));
  }

  // -- two hits --------------------------------------------------------------------------------------------

  function compareButton(hit, actions) {
    const button = element("button", { type: "button", "aria-pressed": actions.isCompared(hit) ? "true" : "false" }, "Compare");
    button.addEventListener("click", () => button.setAttribute("aria-pressed", String(actions.compare(hit))));
    return button;
  }

  function scoresOf(explanation) {
    const scores = new Map();
    for (const { token, score } of explanation.contributions) scores.set(token, (scores.get(token) ?? 0) + score);
    return scores;
  }

  function differences(one, other) {
    const scores = scoresOf(one), others = scoresOf(other);
    const parts = [...new Set([...scores.keys(), ...others.keys()])].map((token) => {
      const score = scores.get(token) ?? 0, other_score = others.get(token) ?? 0;
      return { token, score, other_score };
    });
    return parts.sort((a, b) => Math.abs(b.other_score - b.score) - Math.abs(a.other_score - a.score));
  }

  function differenceTable(id, otherId, parts, caption) {
    const row = (name, score, other, head) => element(
      "tr", {},
      element("th", { scope: "row" }, name),
      ...[score.toFixed(3), other.toFixed(3), `${other >= score ? "+" : ""}${(other - score).toFixed(3)}`].map((cell) => element(head ? "th" : "td", {}, cell)),
    );
    const sum = (key) => parts.reduce((total, part) => total + part[key], 0);
    return element(
      "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      element(
        "table", {},
        element("thead", {}, element("tr", {}, ...["token", id, otherId, "difference"].map((cell) => element("th", { scope: "col" }, cell)))),
        element("tbody", {}, ...parts.slice(0, 20).map((part) => row(part.token, part.score, part.other_score)), row("sum", sum("score"), sum("other_score"))),
      ),
    );
  }

  // -- the page in one file --------------------------------------------------------------------------------

  const data = byId("data");
  if (data) {
    const hit = JSON.parse(data.textContent);
    byId("hits").append(legendView(element("ul", { id: "legend", "aria-label": "Kinds of tokens" })), hitView(hit, null));
    return;
  }

  function legendView(list) {
    for (const [kind, words] of Object.values(KINDS)) list.append(element("li", {}, element("span", { class: `bar ${kind}` }), words));
    return list;
  }

  // -- the page of a server --------------------------------------------------------------------------------

  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  const shown = { hits: [], compared: [], weights: null, asked: 0 };

  async function call(path, body) {
    const headers = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
    const request = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
    const response = await fetch(path, request);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }

  function filterOf() {
    const text = byId("filter").value.trim();
    if (!text) return null;
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new Error(`The filter is not JSON: ${error.message}`);
    }
  }

  function fields() {
    return { query: byId("query").value, syntax: byId("syntax").checked };
  }

  /** Run work and show what fails; null then. Work that a later request has replaced shows nothing. */
  async function attempted(work, isCurrent = () => true) {
    const [answer, message] = await work().then((done) => [done, ""], (error) => [null, visible(error.message)]);
    if (isCurrent()) byId("error").textContent = message;
    return answer;
  }

  async function search() {
    const asked = ++shown.asked;
    const isCurrent = () => asked === shown.asked;
    const answer = await attempted(async () => call("/api/search", { ...fields(), k: Number(byId("k").value) || 5, filter: filterOf(), weights: shown.weights }), isCurrent);
    if (!isCurrent() || !answer) return; // a later keystroke was answered first
    shown.hits = answer.hits;
    shown.compared = [];
    byId("status").textContent = `${answer.hits.length} hits in ${answer.ms} ms`;
    byId("hits").replaceChildren(...answer.hits.map((hit) => hitView(hit, actions)));
    if (!shown.weights) drawWeights(answer.vector);
    drawComparison();
  }

  const actions = {
    explain: (hit) => attempted(() => call("/api/explain", { ...fields(), id: hit.id, tenant: hit.tenant, weights: shown.weights })),
    isCompared: (hit) => shown.compared.includes(hit),
    compare: (hit) => {
      const place = shown.compared.indexOf(hit);
      if (place >= 0) shown.compared.splice(place, 1);
      else shown.compared.push(hit);
      while (shown.compared.length > 2) shown.compared.shift();
      drawComparison();
      const buttons = document.querySelectorAll(".head button");
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", String(shown.compared.includes(shown.hits[n]))));
      return shown.compared.includes(hit);
    },
  };

  function drawComparison() {
    byId("compare").hidden = shown.compared.length !== 2;
    if (shown.compared.length !== 2) return;
    const [one, other] = shown.compared;
    const parts = differences(one.explanation, other.explanation);
    byId("comparison").replaceChildren(differenceTable(one.id, other.id, parts, "Difference of two hits by token"));
  }

  function drawWeights(vector) {
    byId("vector").hidden = !vector.length;
    const max = Math.max(...vector.map((entry) => entry.weight), 1) * 1.5;
    byId("weights").replaceChildren(...vector.map((entry) => {
      const name = entry.in_query ? entry.token : `~${entry.token}`;
      const range = element("input", { type: "range", min: 0, max: max.toFixed(2), step: 0.01, "aria-label": `Weight of ${entry.token}` });
      const number = element("input", { type: "number", min: 0, step: 0.01, "aria-label": `Weight of ${entry.token} as a number` });
      range.value = number.value = entry.weight.toFixed(2);
      const change = (from, to) => () => {
        to.value = from.value;
        entry.weight = Math.max(0, Number(from.value) || 0);
        shown.weights = vector.map(({ id, weight }) => [id, weight]);
        search();
      };
      range.addEventListener("input", change(range, number));
      number.addEventListener("input", change(number, range));
      return element("li", {}, element("span", {}, name), range, number);
    }));
  }

  async function whyNot(event) {
    event.preventDefault();
    const id = byId("missing").value.trim();
    if (!id) return;
    const answer = await attempted(async () => call("/api/why-not", { ...fields(), id, k: Number(byId("k").value) || 5, filter: filterOf() }));
    if (!answer) return byId("reasons").replaceChildren();
    const said = answer.found
      ? [element("p", {}, `${id} was found, on rank ${answer.rank}.`)]
      : [element("ul", {}, ...answer.reasons.map((reason) => element("li", {}, reason.message)))];
    if (!answer.found && answer.differences.length) said.push(differenceTable(id, answer.cut_id, answer.differences, "What the last hit has more"));
    byId("reasons").replaceChildren(...said);
  }

  function queryChanged() {
    shown.weights = null;
    const address = new URLSearchParams(location.hash.slice(1));
    address.set("q", byId("query").value);
    history.replaceState(null, "", `#${address}`);
    search();
  }

  legendView(byId("legend"));
  for (const id of ["query", "syntax"]) byId(id).addEventListener("input", queryChanged);
  for (const id of ["k", "filter"]) byId(id).addEventListener("input", search);
  byId("search").addEventListener("submit", (event) => event.preventDefault());
  byId("why-not").addEventListener("submit", whyNot);
  byId("reset").addEventListener("click", queryChanged);
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "TEXTAREA"].includes(document.activeElement?.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      byId("query").focus();
    }
  });
  byId("query").value = new URLSearchParams(location.hash.slice(1)).get("q") ?? "";
  byId("query").focus();
  attempted(() => call("/api/info")).then((info) => {
    if (info) byId("info").textContent = `${info.documents} documents in ${info.collection}, model ${info.model}`;
    if (info && byId("query").value) search();
  });
})();
