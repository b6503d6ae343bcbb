// Shows the node's OpenAPI document and sends requests to the node it came from, and to nobody else.
// All text goes in as text, never as markup. The key is kept in the input alone.
"use strict";

const SHOWN_LIMIT = 1 << 20; // characters of an answer that are shown
let api; // the document

const byId = (id) => document.getElementById(id);

// An element with attributes (listeners where they are functions) and children.
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// The two marks of Markdown that the document's texts use, as elements.
function prose(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**")) return make("b", {}, part.slice(2, -2));
    return part.length > 2 && part.startsWith("`") ? make("code", {}, part.slice(1, -1)) : part;
  });
}

const deref = (value) =>
  value && value.$ref ? value.$ref.slice(2).split("/").reduce((place, part) => place[part], api) : value;

// A schema in a few words, as people write types down.
function sketch(schema, indent = "", seen = []) {
  const name = schema.$ref ? schema.$ref.split("/").pop() : "";
  if (name && seen.includes(name)) return name;
  const inner = [...seen, name];
  schema = deref(schema);
  const options = schema.anyOf || schema.oneOf;
  if (options) return options.map((option) => sketch(option, indent, inner)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.contentSchema) return `JSON text of ${sketch(schema.contentSchema, indent, inner)}`;
  if (schema.items) return `[${sketch(schema.items, indent, inner)}, …]`;
  const properties = Object.assign({}, ...(schema.allOf || []).map((part) => deref(part).properties), schema.properties);
  const lines = Object.entries(properties).map(([key, value]) => {
    const mark = (schema.required || []).includes(key) ? "" : "?";
    const remark = deref(value).description;
    return `${indent}  ${key}${mark}: ${sketch(value, indent + "  ", inner)}${remark ? `  — ${remark}` : ""}`;
  });
  if (lines.length) return `{\n${lines.join("\n")}\n${indent}}`;
  return [schema.type || "anything"].flat().join(" | ");
}

function fold(title, text) {
  return make("details", {}, make("summary", {}, title), make("pre", {}, text));
}

function shownResponse(status, response) {
  const described = deref(response);
  const parts = Object.entries(described.content || {}).map(([type, media]) => fold(type, sketch(media.schema || {})));
  const headers = Object.entries(described.headers || {}).map(([name, header]) => `${name}: ${deref(header).description}`);
  return make("details", {}, make("summary", {}, make("code", {}, status), ...prose(described.description)),
    headers.length ? fold("Headers", headers.join("\n")) : null, ...parts);
}

// One row of inputs; what is in them is read when the request is sent.
function parameterRow(parameter, inputs) {
  const field = make("input", { "aria-label": parameter.name, placeholder: sketch(parameter.schema || {}) });
  inputs.push([parameter, field]);
  const place = parameter.required ? `${parameter.in}, required` : parameter.in;
  return make("tr", {}, make("td", {}, make("code", {}, parameter.name)), make("td", { class: "note" }, place),
    make("td", {}, field), make("td", { class: "note" }, ...prose(parameter.description || "")));
}

function requestOf(method, path, inputs, body) {
  const headers = new Headers();
  const query = new URLSearchParams();
  for (const [parameter, field] of inputs) {
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(field.value));
    else if (field.value && parameter.in === "query") query.set(parameter.name, field.value);
    else if (field.value) headers.set(parameter.name, field.value);
  }
  const key = byId("key").value.trim();
  if (key) headers.set("Authorization", `Bearer ${key}`);
  if (body && body.type) headers.set("Content-Type", body.type);
  const url = path + (query.size ? `?${query}` : "");
  return [url, { method, headers, body: body ? body.value() : undefined, cache: "no-store", redirect: "manual" }];
}

// Sends it and shows what comes, as it comes.
async function send([url, options], signal, shown) {
  const began = performance.now();
  const took = () => `${Math.round(performance.now() - began)} ms`;
  shown.answer.textContent = shown.headers.textContent = "";
  shown.status.className = "note";
  shown.status.textContent = "Sent…";
  try {
    const response = await fetch(url, { ...options, signal });
    shown.status.textContent = `${response.status} ${response.statusText}, first byte after ${took()}`;
    shown.status.className = response.ok ? "" : "bad";
    shown.headers.textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    const reader = response.body && response.body.pipeThrough(new TextDecoderStream()).getReader();
    let left = SHOWN_LIMIT;
    for (let part; reader && !(part = await reader.read()).done; left -= part.value.length) {
      if (left > 0) shown.answer.append(document.createTextNode(part.value.slice(0, left)));
      shown.answer.scrollTop = shown.answer.scrollHeight;
    }
    if (left < 0) shown.answer.append(document.createTextNode("\n… (the rest is not shown)"));
    pretty(shown.answer, response.headers.get("Content-Type") || "");
    shown.status.textContent += `, whole after ${took()}`;
  } catch (error) {
    shown.status.className = "bad";
    shown.status.textContent += ` ${error.name === "AbortError" ? "Stopped" : error} after ${took()}`;
  }
}

function pretty(element, type) {
  if (!type.startsWith("application/json")) return;
  try {
    element.textContent = JSON.stringify(JSON.parse(element.textContent), null, 2);
  } catch { /* it is no JSON after all, or cut: it stays as it came */ }
}

// The field a body is written in or chosen with, and how it is read; null for operations without one.
function bodyField(requestBody) {
  const [type, media] = Object.entries(requestBody?.content || {})[0] || [];
  if (!type) return null;
  if (type === "application/json") {
    const field = make("textarea", { spellcheck: "false", "aria-label": "Body" });
    field.value = JSON.stringify(media.example || {}, null, 2);
    return { type, fields: [fold("Body: " + type, sketch(media.schema)), field], value: () => field.value };
  }
  const file = make("input", { type: "file", "aria-label": "File" });
  if (type === "application/octet-stream") return { type, fields: [file], value: () => file.files[0] };
  const names = Object.keys(deref(media.schema).properties).filter((name) => name !== "file");
  const fields = names.map((name) => make("input", { placeholder: name, "aria-label": name }));
  const value = () => {
    const form = new FormData();
    if (file.files[0]) form.set("file", file.files[0]);
    names.forEach((name, index) => fields[index].value && form.set(name, fields[index].value));
    return form;
  };
  return { type: "", fields: [file, ...fields], value }; // the browser names the boundary
}

function tryIt(method, path, operation) {
  const inputs = [];
  const rows = operation.parameters.map((parameter) => parameterRow(parameter, inputs));
  const body = bodyField(operation.requestBody);
  const shown = { status: make("p", { class: "note" }), headers: make("pre"), answer: make("pre") };
  let sending = null;
  const go = async () => {
    sending?.abort();
    const mine = (sending = new AbortController());
    await send(requestOf(method, path, inputs, body), mine.signal, shown);
  };
  return make("div", {}, rows.length ? make("table", {}, ...rows) : null, ...(body ? body.fields : []),
    make("div", {}, make("button", { click: go }, "Send"), make("button", { click: () => sending?.abort() }, "Stop")),
    shown.status, make("details", {}, make("summary", {}, "Headers of the answer"), shown.headers), shown.answer);
}

function needs(operation) {
  const scope = operation["x-scope"];
  return scope === "public" ? "no key" : scope === "admin" ? "the operators' token" : `a key that allows ${scope}`;
}

function shownOperation(method, path, operation) {
  const details = make("details", { id: operation.operationId },
    make("summary", {}, make("b", {}, method), make("code", {}, path), operation.summary));
  details.dataset.words = `${method} ${path} ${operation.summary} ${operation.tags}`.toLowerCase();
  details.addEventListener("toggle", () => { // built when it is looked at: there are many
    details.append(
      make("p", {}, ...prose(operation.description || "")),
      make("p", { class: "note" }, `Needs ${needs(operation)}. Runs: ${operation["x-runs"]}. ` +
        `${operation["x-idempotent"] ? "Twice is as once." : "Twice is not as once."}`),
      make("h3", {}, "Try it"), tryIt(method, path, operation),
      make("h3", {}, "Answers"), ...Object.entries(operation.responses).map(([status, each]) => shownResponse(status, each)));
  }, { once: true });
  return details;
}

function show() {
  byId("title").textContent = `${api.info.title} ${api.info.version}`;
  byId("about").append(...prose(api.info.description.trim()));
  const rows = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => [method.toUpperCase(), path, operation]));
  for (const tag of api.tags) {
    const mine = rows.filter(([, , operation]) => operation.tags.includes(tag.name));
    byId("operations").append(make("section", {}, make("h2", {}, tag.name), make("p", { class: "note" }, tag.description),
      ...mine.map((row) => shownOperation(...row))));
  }
  byId("find").addEventListener("input", ({ target }) => {
    for (const each of document.querySelectorAll("details[data-words]"))
      each.hidden = !each.dataset.words.includes(target.value.trim().toLowerCase());
  });
  if (location.hash) byId(location.hash.slice(1))?.setAttribute("open", "");
}

fetch("openapi.json", { cache: "no-store" })
  .then((response) => response.json())
  .then((found) => { api = found; show(); })
  .catch((error) => { byId("about").textContent = `The document could not be read: ${error}`; });
