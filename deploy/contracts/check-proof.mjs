// Checks a proof with OpenZeppelin's own library: node check-proof.mjs proof.json, or - for standard input.
// The document is what `karat proof` prints. Exit 0: valid; 1: not valid; 2: not readable.
import { readFileSync } from "node:fs";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const file = process.argv[2];
if (!file) {
  console.error("usage: node check-proof.mjs FILE|-");
  process.exit(2);
}
let document;
try {
  document = JSON.parse(readFileSync(file === "-" ? 0 : file, "utf8"));
  if (document.format !== "standard-v1-proof") throw new Error(`format ${document.format}`);
} catch (error) {
  console.error(`check-proof: ${file}: ${error.message}`);
  process.exit(2);
}
let valid = false;
try {
  valid = StandardMerkleTree.verify(document.root, document.leafEncoding, document.value, document.proof);
} catch (error) {
  console.error(`check-proof: ${error.message}`);
}
console.log(
  valid
    ? `valid: asset ${document.value[0]} is in batch ${document.batch?.number} under ${document.root}`
    : `NOT VALID: asset ${document.value?.[0]} is not under ${document.root}`,
);
process.exit(valid ? 0 : 1);
