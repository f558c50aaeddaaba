// Compiles src/KaratSettlement.sol with the pinned compiler and writes artifacts/KaratSettlement.json,
// or with --check compares what it would write with what is there (exit 1 when they differ).
import { readFileSync, writeFileSync, mkdirSync, existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const solc = require("solc");
const here = dirname(fileURLToPath(import.meta.url));
const sourceName = "src/KaratSettlement.sol";
const contractName = "KaratSettlement";
const artifactPath = join(here, "artifacts", `${contractName}.json`);

// EIP-170: larger code cannot be deployed.
const codeSizeMaxBytes = 24_576;

const settings = {
  optimizer: { enabled: true, runs: 200 },
  viaIR: true,
  // Cancun is what every current chain and L2 runs; newer opcodes would narrow the choice for nothing.
  evmVersion: "cancun",
  // No metadata hash: the bytecode then depends on code alone, not on comments or file layout.
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

function findImport(path) {
  const file = join(here, "node_modules", path);
  return existsSync(file) ? { contents: readFileSync(file, "utf8") } : { error: `${path}: not found` };
}

const input = {
  language: "Solidity",
  sources: { [sourceName]: { content: readFileSync(join(here, sourceName), "utf8") } },
  settings,
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
const messages = output.errors ?? [];
for (const message of messages) console.error(message.formattedMessage);
if (messages.length > 0) {
  console.error("compile: warnings are errors here");
  process.exit(1);
}

const contract = output.contracts[sourceName][contractName];
const deployed = contract.evm.deployedBytecode.object;
if (deployed.length / 2 > codeSizeMaxBytes) {
  console.error(`compile: ${deployed.length / 2} bytes of code, the limit is ${codeSizeMaxBytes}`);
  process.exit(1);
}
const { outputSelection, ...recorded } = settings;
const artifact =
  JSON.stringify(
    {
      contractName,
      compiler: solc.version(),
      settings: recorded,
      abi: contract.abi,
      bytecode: "0x" + contract.evm.bytecode.object,
      deployedBytecode: "0x" + deployed,
    },
    null,
    2,
  ) + "\n";

if (process.argv.includes("--check")) {
  const committed = existsSync(artifactPath) ? readFileSync(artifactPath, "utf8") : "";
  if (committed !== artifact) {
    console.error(`check: ${artifactPath} is not what ${sourceName} compiles to; run build.sh and commit it`);
    process.exit(1);
  }
  console.log(`check: artifact matches its source (${deployed.length / 2} bytes of code)`);
} else {
  mkdirSync(dirname(artifactPath), { recursive: true });
  writeFileSync(artifactPath, artifact);
  console.log(`wrote ${artifactPath} (${deployed.length / 2} bytes of code)`);
}
