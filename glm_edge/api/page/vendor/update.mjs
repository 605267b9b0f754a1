// Fetches the libraries of the chat page from the npm registry, at these versions and with these hashes, and writes the
// files beside this one: `node update.mjs`. What it writes is committed; nobody needs npm to install or to serve.
//
// Files stay as their authors minified them, but for the names of source maps, which are not here, and for font formats
// that no browser of today asks for. To update: change a version, run, and copy the hash that the message has.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL(".", import.meta.url));

// Files by their names here and in the package. Those without files are inside of markdown-it's: only their licences.
const PACKAGES = [
  {
    name: "markdown-it", version: "15.0.3",
    hash: "sha512-+Az7Ojz3iRGu8KYMvJ6xVhvrxP3eE+vEtJX75Ow88XBpcQNV/0lGX5ZynIIBftREo4DC2jsveAMDaeltmm8QvQ==",
    files: { "markdown-it.min.js": "dist/browser/markdown-it.esm.min.mjs" },
  },
  {
    name: "linkify-it", version: "6.1.0",
    hash: "sha512-wJ/TwpSDTLepCrQoYWYIExIKg5Zchex2Nn5yk2mFnB+6PtdkHtyLx742md9csRjjOnGkKIS/RrbY7l8D6gT9Vw==",
  },
  {
    name: "mdurl", version: "2.1.0",
    hash: "sha512-1+HBaOx0zi/dQWht8rNv9MYf9qqpqL/kxI0hXImU6Y547zM6Sni8BQibt7ifgMcYtQg41ao3Ivd6cnSM86inpg==",
  },
  {
    name: "uc.micro", version: "3.0.0",
    hash: "sha512-U3PppEkleoTnIfi8BozMx3yju3qc/L6SwqWo2Sw+54PX+PX0q9I+r1Um5HCmqD7n9VDX5/v3vQH/AjA6deDdtw==",
  },
  {
    name: "punycode.js", version: "2.3.1",
    hash: "sha512-uxFIHU0YlHYhDQtV4R9J6a52SLx28BCjT+4ieh7IGbgwVJWO+km431c4yRlREUAsAmt/uMjQUyQHNEPf0M39CA==",
  },
  {
    name: "entities", version: "8.1.0",
    hash: "sha512-kxL7msIffSuh9aaFAMD7rxAIuTRMAHMeBtgHW2yUdWw732ZNh4MehkF2gdjvtdmikkaIP9bFDDJOPlsvm7avrA==",
  },
  {
    name: "dompurify", version: "3.4.18",
    hash: "sha512-ofe3wI/uNm68HInABYFJYqQxRw1EaKAjNdrFVKqjUY+UZurvNd2L/HuQe097s/4RivWiZyP6tT7aoT8atjfhwg==",
    files: { "purify.min.js": "dist/purify.min.js" },
  },
  {
    name: "@highlightjs/cdn-assets", version: "11.12.0",
    hash: "sha512-KvOKXODaiFmId9xaq3xc5xCL66wVLUuOngDbO9B/kewbFTqdGbn2nJxNhN3H5R1cgDTVj6R8vH0zgiNDEGjpDw==",
    files: { "highlight.min.js": "es/highlight.min.js" },
  },
  {
    name: "katex", version: "0.19.1",
    hash: "sha512-jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA==",
    files: { "katex.min.js": "dist/katex.min.js", "katex.min.css": "dist/katex.min.css" },
    fonts: "dist/fonts",
  },
];

// The package's folder, unpacked, if its hash is the one above.
function fetchPackage({ name, version, hash }, folder) {
  const [{ filename }] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--silent", `${name}@${version}`], { cwd: folder, encoding: "utf8" }),
  );
  const archive = join(folder, filename.replace("@", "").replace("/", "-"));
  const found = "sha512-" + createHash("sha512").update(readFileSync(archive)).digest("base64");
  if (found !== hash) throw new Error(`${name} ${version} has the hash ${found}, not ${hash}`);
  const unpacked = mkdtempSync(join(folder, "unpacked-"));
  execFileSync("tar", ["-xzf", archive, "-C", unpacked]);
  return join(unpacked, "package");
}
const withoutMaps = (text) => text.replace(/\n\/\/# sourceMappingURL=\S+\s*$/, "").trimEnd() + "\n";
const onlyWoff2 = (text) => text.replace(/,url\([^)]*\) format\("(?:woff|truetype)"\)/g, "");

const folder = mkdtempSync(join(tmpdir(), "glm-edge-vendor-"));
try {
  const licences = ["The files in this folder are other people's, under their own licences:\n"];
  rmSync(join(HERE, "fonts"), { recursive: true, force: true });
  mkdirSync(join(HERE, "fonts"));
  for (const one of PACKAGES) {
    const unpacked = fetchPackage(one, folder);
    for (const [here, there] of Object.entries(one.files ?? {})) {
      const text = withoutMaps(readFileSync(join(unpacked, there), "utf8"));
      writeFileSync(join(HERE, here), here.endsWith(".css") ? onlyWoff2(text) : text);
    }
    for (const font of one.fonts ? readdirSync(join(unpacked, one.fonts)) : []) {
      const bytes = readFileSync(join(unpacked, one.fonts, font));
      if (font.endsWith(".woff2")) writeFileSync(join(HERE, "fonts", font), bytes);
    }
    const { license } = JSON.parse(readFileSync(join(unpacked, "package.json"), "utf8"));
    const names = Object.keys(one.files ?? { "inside of markdown-it.min.js": "" });
    const files = [...names, ...(one.fonts ? ["fonts/"] : [])].join(", ");
    const licence = readdirSync(unpacked).find((file) => /^licen[sc]e/i.test(file));
    const text = readFileSync(join(unpacked, licence), "utf8").trim();
    const rule = "=".repeat(80);
    licences.push(`${rule}\n${one.name} ${one.version}: ${license}\n${files}\n${rule}\n\n${text}\n`);
  }
  writeFileSync(join(HERE, "LICENSES.txt"), licences.join("\n").replace(/\r/g, "").replace(/[ \t]+$/gm, ""));
} finally {
  rmSync(folder, { recursive: true });
}
