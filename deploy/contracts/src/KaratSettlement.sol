// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC4906} from "@openzeppelin/contracts/interfaces/IERC4906.sol";
import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {ERC2981} from "@openzeppelin/contracts/token/common/ERC2981.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";

/// @title Karat settlement: an ordered chain of batch roots, and tokens minted from them by proof
/// @notice A realm's ledger settles in batches. Each batch is one Merkle root over at most one leaf an
/// asset; batches form a chain, so a resend, a gap or a fork is refused here and not only off chain.
/// An asset that left the ledger (kind Redeemed) becomes an ERC-721 token of its owner, once.
contract KaratSettlement is ERC721, ERC2981, AccessControl, Pausable, IERC4906 {
    /// @notice What a leaf says happened to its asset.
    uint8 public constant KIND_HELD = 0;
    uint8 public constant KIND_BURNED = 1;
    uint8 public constant KIND_REDEEMED = 2;

    /// @notice May commit batches.
    bytes32 public constant SETTLER_ROLE = keccak256("SETTLER_ROLE");
    /// @notice May pause and resume commits and redemptions. Transfers of tokens are never paused.
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    /// @notice The state of one asset as its batch settled it; hashed as an OpenZeppelin standard leaf
    /// with the types uint64, address, uint32, bytes32, uint32, uint8.
    struct Leaf {
        uint64 asset;
        address owner;
        uint32 version;
        bytes32 metadata;
        uint32 collection;
        uint8 kind;
    }

    /// @notice Number of the last committed batch; 0 before the first.
    uint64 public headNumber;
    /// @notice Last ledger sequence that the committed batches cover.
    uint64 public headSequence;
    /// @notice Commitment of the last batch: a hash chain over everything every batch committed to.
    bytes32 public headCommitment;

    mapping(uint64 number => bytes32 root) private _roots;
    mapping(uint256 tokenId => bytes32 digest) private _metadata;
    string private _tokenBaseURI;

    /// @notice A batch was committed; `commitment` is what the next batch must name as its parent.
    event BatchCommitted(
        uint64 indexed number,
        bytes32 indexed root,
        bytes32 indexed commitment,
        bytes32 parent,
        bytes32 payload,
        bytes32 logHead,
        uint64 firstSequence,
        uint64 lastSequence
    );
    /// @notice An asset left the ledger and became a token.
    event Redeemed(
        uint64 indexed asset,
        address indexed owner,
        uint64 indexed batch,
        uint32 version,
        uint32 collection,
        bytes32 metadata
    );
    /// @notice The royalty that every token answers with has changed.
    event DefaultRoyaltyChanged(address receiver, uint96 basisPoints);

    error WrongNumber(uint64 expected, uint64 given);
    error WrongParent(bytes32 expected, bytes32 given);
    error WrongRange(uint64 firstSequence, uint64 lastSequence);
    error EmptyRoot();
    error UnknownBatch(uint64 number);
    error NotRedeemable(uint64 asset, uint8 kind);
    error AlreadyRedeemed(uint64 asset);
    error InvalidProof(uint64 number, uint64 asset);

    /// @param admin grants roles, sets royalties and the base URI, and may pause
    /// @param settler commits batches
    /// @param baseURI prefix of every token's metadata address; the decimal token id follows it
    /// @param royaltyReceiver receives royalties of `royaltyBasisPoints` hundredths of a percent
    constructor(
        string memory name_,
        string memory symbol_,
        string memory baseURI,
        address admin,
        address settler,
        address royaltyReceiver,
        uint96 royaltyBasisPoints
    ) ERC721(name_, symbol_) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(PAUSER_ROLE, admin);
        _grantRole(SETTLER_ROLE, settler);
        _tokenBaseURI = baseURI;
        _setDefaultRoyalty(royaltyReceiver, royaltyBasisPoints);
        emit DefaultRoyaltyChanged(royaltyReceiver, royaltyBasisPoints);
    }

    /// @notice Appends a batch. Refused unless `number` and `parent` follow on, so sending the same
    /// batch twice, or two batches in the wrong order, changes nothing.
    /// @param parent commitment of the batch before, zero for the first
    /// @param payload sha2-256 digest of the batch's canonical payload (the digest inside its CID)
    /// @param logHead hash of the log's block that closes the batch
    function commit(
        uint64 number,
        bytes32 parent,
        bytes32 root,
        bytes32 payload,
        bytes32 logHead,
        uint64 firstSequence,
        uint64 lastSequence
    ) external onlyRole(SETTLER_ROLE) whenNotPaused {
        uint64 expected = headNumber + 1;
        if (number != expected) revert WrongNumber(expected, number);
        bytes32 head = headCommitment;
        if (parent != head) revert WrongParent(head, parent);
        if (firstSequence > lastSequence || lastSequence < headSequence) {
            revert WrongRange(firstSequence, lastSequence);
        }
        if (root == bytes32(0)) revert EmptyRoot();

        bytes32 commitment =
            keccak256(abi.encode(number, parent, root, payload, logHead, firstSequence, lastSequence));
        headNumber = number;
        headSequence = lastSequence;
        headCommitment = commitment;
        _roots[number] = root;
        emit BatchCommitted(
            number, root, commitment, parent, payload, logHead, firstSequence, lastSequence
        );
    }

    /// @notice Mints the token of a redeemed asset to the owner its leaf names. Anybody may send it.
    /// The token id is the asset's id. `_mint` and not `_safeMint`: the receiver is not called, so it
    /// can neither re-enter nor block its own redemption.
    function redeem(uint64 number, Leaf calldata leaf, bytes32[] calldata proof) external whenNotPaused {
        if (leaf.kind != KIND_REDEEMED) revert NotRedeemable(leaf.asset, leaf.kind);
        if (_ownerOf(leaf.asset) != address(0)) revert AlreadyRedeemed(leaf.asset);
        if (!verify(number, leaf, proof)) revert InvalidProof(number, leaf.asset);
        _metadata[leaf.asset] = leaf.metadata;
        _mint(leaf.owner, leaf.asset);
        emit Redeemed(leaf.asset, leaf.owner, number, leaf.version, leaf.collection, leaf.metadata);
    }

    /// @notice Whether batch `number` settled exactly this leaf.
    function verify(uint64 number, Leaf calldata leaf, bytes32[] calldata proof)
        public
        view
        returns (bool)
    {
        bytes32 root = _roots[number];
        if (root == bytes32(0)) revert UnknownBatch(number);
        return MerkleProof.verifyCalldata(proof, root, leafHash(leaf));
    }

    /// @notice The leaf's hash in the tree: hashed twice, so that an inner node can never pass as one.
    function leafHash(Leaf calldata leaf) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(leaf))));
    }

    /// @notice Merkle root of a committed batch.
    function rootOf(uint64 number) external view returns (bytes32 root) {
        root = _roots[number];
        if (root == bytes32(0)) revert UnknownBatch(number);
    }

    /// @notice Digest of the metadata a token was redeemed with.
    function metadataOf(uint256 tokenId) external view returns (bytes32) {
        _requireOwned(tokenId);
        return _metadata[tokenId];
    }

    /// @notice Sets the royalty of all tokens, in hundredths of a percent of the sale.
    function setDefaultRoyalty(address receiver, uint96 basisPoints) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setDefaultRoyalty(receiver, basisPoints);
        emit DefaultRoyaltyChanged(receiver, basisPoints);
    }

    /// @notice Moves all tokens' metadata to another address prefix.
    function setBaseURI(string calldata baseURI) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _tokenBaseURI = baseURI;
        emit BatchMetadataUpdate(0, type(uint256).max);
    }

    /// @notice Tells marketplaces to read one token's metadata again.
    function refreshMetadata(uint256 tokenId) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _requireOwned(tokenId);
        emit MetadataUpdate(tokenId);
    }

    /// @notice Stops commits and redemptions.
    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    /// @notice Lets commits and redemptions go on.
    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId)
        public
        view
        override(ERC721, ERC2981, AccessControl, IERC165)
        returns (bool)
    {
        // 0x49064906 is ERC-4906, which has events and no functions.
        return interfaceId == bytes4(0x49064906) || super.supportsInterface(interfaceId);
    }

    function _baseURI() internal view override returns (string memory) {
        return _tokenBaseURI;
    }
}
