// Asks through openai-node, each request twice, and prints what came as one JSON document:
// {name: [first, second]}, every answer with its Cache-Status.
// Arguments: the base URL, and a mark that makes the prompts this run's own.

import OpenAI from "openai";

const [baseURL, mark] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-node-0123456789", maxRetries: 0 });
const messages = [{ role: "user", content: `node ${mark}` }];
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];

async function whole(request) {
  const { data, response } = await request.withResponse();
  return { answer: data, cache: response.headers.get("cache-status") };
}

async function streamed(request) {
  const { data, response } = await request.withResponse();
  const chunks = [];
  for await (const chunk of data) chunks.push(chunk);
  return { answer: chunks, cache: response.headers.get("cache-status") };
}

const requests = {
  chat: () => whole(client.chat.completions.create({ model: "m", messages })),
  "chat stream": () =>
    streamed(
      client.chat.completions.create({
        model: "m-stream",
        messages,
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
  tools: () => whole(client.chat.completions.create({ model: "m", messages, tools })),
  completions: () => whole(client.completions.create({ model: "m", prompt: `node ${mark}` })),
  // Without an encoding asked for, the library asks for base64 and decodes it.
  embeddings: () =>
    whole(client.embeddings.create({ model: "e", input: [`node ${mark}`, "two"] })),
  "embeddings float": () =>
    whole(
      client.embeddings.create({ model: "e2", input: `node ${mark}`, encoding_format: "float" }),
    ),
  responses: () =>
    whole(client.responses.create({ model: "m", input: `node ${mark}`, store: false })),
  "responses stream": () =>
    streamed(
      client.responses.create({
        model: "m-stream",
        input: `node ${mark}`,
        store: false,
        stream: true,
      }),
    ),
};

const given = {};
for (const [name, ask] of Object.entries(requests)) given[name] = [await ask(), await ask()];
process.stdout.write(JSON.stringify(given));
