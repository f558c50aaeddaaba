// Roots and proofs of OpenZeppelin's own tree for leaves that the Rust tests derive in the same way.
// Writes engine/settlement/tests/golden/standard_tree.json; with --check compares (exit 1 when they differ).
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const here = dirname(fileURLToPath(import.meta.url));
const goldenPath = join(here, "../../engine/settlement/tests/golden/standard_tree.json");
const leafEncoding = ["uint64", "address", "uint32", "bytes32", "uint32", "uint8"];
const sizes = [1, 2, 3, 5, 8, 100, 1000];

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

function leaf(size, index) {
  const seed = sha256(`karat leaf ${size} ${index}`);
  return [
    String(index + 1),
    "0x" + seed.subarray(0, 20).toString("hex"),
    String(seed.readUInt32BE(20)),
    "0x" + sha256(seed).toString("hex"),
    String(seed.readUInt32BE(24)),
    String(seed[28] % 3),
  ];
}

const trees = sizes.map((size) => {
  const leaves = Array.from({ length: size }, (_, index) => leaf(size, index));
  const tree = StandardMerkleTree.of(leaves, leafEncoding);
  const indexes = [...new Set([0, size >> 1, size - 1])];
  return { size, root: tree.root, proofs: indexes.map((index) => ({ index, proof: tree.getProof(index) })) };
});
const golden = JSON.stringify({ leafEncoding, trees }, null, 2) + "\n";

if (process.argv.includes("--check")) {
  if (!existsSync(goldenPath) || readFileSync(goldenPath, "utf8") !== golden) {
    console.error(`check: ${goldenPath} is not what OpenZeppelin's tree gives`);
    process.exit(1);
  }
  console.log(`check: golden roots match OpenZeppelin's tree for ${sizes.join(", ")} leaves`);
} else {
  mkdirSync(dirname(goldenPath), { recursive: true });
  writeFileSync(goldenPath, golden);
  console.log(`wrote ${goldenPath}`);
}
