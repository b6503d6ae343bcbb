// What ollama-js does with one node: `node client.mjs URL STEP` prints the outcome of one step as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The library is installed apart from this file, in the folder the caller runs it in.
const installed = createRequire(pathToFileURL(process.cwd() + "/"));
const { Ollama } = await import(pathToFileURL(installed.resolve("ollama")).href);

const messages = [{ role: "user", content: "good morning" }];
const nodes = [];
const client = new Ollama({
  host: process.argv[2],
  fetch: async (...request) => {
    const answer = await fetch(...request);
    nodes.push(answer.headers.get("x-ollama-node"));
    return answer;
  },
});

// What a failed call tells its caller, with what had come before it failed.
const failure = (error, said = []) => ({ name: error.name, message: error.message, status: error.status_code, said });

async function read(stream, text) {
  const said = [];
  for await (const part of stream) said.push(text(part));
  return said;
}

const steps = {
  list: async () => (await client.list()).models.map((model) => model.name),
  ps: async () => (await client.ps()).models.map((model) => model.name),
  async show() {
    const { capabilities, model_info } = await client.show({ model: "tiny" });
    return { capabilities, architecture: model_info["general.architecture"] };
  },
  async generate() {
    const asked = { model: "tiny", prompt: "good morning" };
    const whole = await client.generate(asked);
    const streamed = await read(await client.generate({ ...asked, stream: true }), (part) => part.response);
    return { whole: whole.response, reason: whole.done_reason, streamed };
  },
  async chat() {
    const whole = await client.chat({ model: "tiny", messages });
    const stream = await client.chat({ model: "tiny", messages, stream: true });
    const parts = await read(stream, (part) => part);
    return {
      whole: whole.message.content,
      streamed: parts.map((part) => part.message.content),
      done: parts.map((part) => part.done),
    };
  },
  unicode: async () =>
    read(await client.chat({ model: "tiny-uni", messages, stream: true }), (part) => part.message.content),
  embed: async () => (await client.embed({ model: "tiny-embed", input: ["hello", "world"] })).embeddings,
  async copy() {
    const names = async () => (await client.list()).models.map((model) => model.name);
    const copied = await client.copy({ source: "tiny", destination: "ours" });
    const between = await names();
    const deleted = await client.delete({ model: "ours" });
    return { copied, between, deleted, after: await names() };
  },
  pull: async () => read(await client.pull({ model: "tiny-random", stream: true }), (part) => part.status),
  async unknown() {
    const asks = [
      () => client.generate({ model: "none", prompt: "good morning" }),
      () => client.chat({ model: "none", messages, stream: true }),
      () => client.show({ model: "none" }),
    ];
    return Promise.all(asks.map((ask) => ask().then(() => null, failure)));
  },
  async cut() {
    const said = [];
    try {
      for await (const part of await client.chat({ model: "tiny", messages, stream: true })) {
        said.push(part.message.content);
      }
    } catch (error) {
      return failure(error, said);
    }
    return { said };
  },
  async abort() {
    const said = [];
    const stream = await client.chat({ model: "tiny", messages, stream: true });
    try {
      for await (const part of stream) {
        said.push(part.message.content);
        if (said.length === 2) stream.abort();
      }
    } catch (error) {
      return failure(error, said);
    }
    return { said };
  },
};

const result = await steps[process.argv[3]]();
console.log(JSON.stringify({ result, nodes }));
