// The pages that the browsers open. Those on localhost may use cameras and workers without TLS.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const here = (path) => new URL(path, import.meta.url);
const MODULES = '../node_modules/';
// Where what a path begins with is found.
const PLACES = {
  '/element-call/': here(`${MODULES}@element-hq/element-call-embedded/dist/`),
  '/pkg/': here(`${MODULES}@matrix-org/matrix-sdk-crypto-wasm/pkg/`),
};
const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css', json: 'application/json', wasm: 'application/wasm' };

async function bundle() {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(here('host.mjs'))],
    bundle: true,
    format: 'esm',
    target: 'esnext',
    define: { global: 'globalThis' },
    logLevel: 'error',
    write: false,
  });
  return outputFiles[0].contents;
}

/** Serves the client and Element Call; answers where, and how to end it. */
export async function serve() {
  const host = await bundle();
  const server = createServer(async (request, response) => {
    const path = request.url.split(/[?#]/)[0];
    const prefix = Object.keys(PLACES).find((start) => path.startsWith(start));
    try {
      let body = host;
      if (prefix) body = await readFile(new URL(path.slice(prefix.length), PLACES[prefix]));
      else if (path === '/') body = await readFile(here('host.html'));
      else if (path !== '/host.js') throw new Error('there is no such file');
      const type = path === '/' ? TYPES.html : TYPES[path.split('.').pop()];
      response.setHeader('content-type', type ?? 'application/octet-stream');
      response.end(body);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  server.listen(0, 'localhost');
  await once(server, 'listening');
  return { origin: `http://localhost:${server.address().port}`, close: () => server.close() };
}
