-- Who owns what, and what each command came to, so that a retry gets its first answer.
CREATE TABLE asset (
    id bigint PRIMARY KEY,
    owner bytea,
    -- Of its content, as clients see it.
    version integer NOT NULL,
    -- Counts every change of the row: what an optimistic change compares.
    revision bigint NOT NULL,
    -- The command that gave it to its owner, which losers are told.
    given_by bytea NOT NULL,
    given_sequence bigint NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE account (
    id bytea PRIMARY KEY,
    balance bigint NOT NULL
);

CREATE TABLE command (
    id bytea PRIMARY KEY,
    sequence bigint NOT NULL,
    code integer NOT NULL,
    subject bigint NOT NULL,
    winner_id bytea,
    winner_sequence bigint,
    -- The command as it came: what happened is read from it.
    body bytea NOT NULL
);

CREATE SEQUENCE sequences CACHE 1;
CREATE SEQUENCE asset_numbers CACHE 1;
CREATE SEQUENCE collection_numbers CACHE 1;

-- Applies commands in their order, in one transaction. Kinds: 1 claim, 2 transfer, 3 mint, 4 deposit, 5 a new collection,
-- 6 an exchange, 7 an exchange that a giver did not agree to. `others` are receivers; codes are Karat's (docs/refusals.md).
-- An exchange has `versions` legs from place `amounts` on.
CREATE FUNCTION apply(
    locked boolean, ids bytea[], kinds integer[], assets bigint[], versions integer[], actors bytea[], others bytea[],
    amounts bigint[], bodies bytea[],
    givers bytea[], takers bytea[], leg_assets bigint[], leg_versions integer[], leg_amounts bigint[]
) RETURNS TABLE (
    of_id bytea, of_sequence bigint, of_code integer, of_subject bigint, of_winner_id bytea, of_winner_sequence bigint,
    of_replayed boolean
) LANGUAGE plpgsql AS $$
DECLARE
    seen asset%ROWTYPE;
    revisions bigint[];
BEGIN
    IF locked AND cardinality(givers) > 0 THEN
        -- All that the message may touch, in one order everywhere: no two messages wait for each other.
        PERFORM 1 FROM asset WHERE id = ANY (assets || leg_assets) ORDER BY id FOR UPDATE;
        PERFORM 1 FROM account WHERE id = ANY (givers || takers) ORDER BY id FOR UPDATE;
    END IF;
    FOR i IN 1 .. cardinality(ids) LOOP
        of_id := ids[i];
        of_replayed := true;
        SELECT sequence, code, subject, winner_id, winner_sequence
            INTO of_sequence, of_code, of_subject, of_winner_id, of_winner_sequence
            FROM command WHERE id = ids[i];
        IF FOUND THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        of_replayed := false;
        of_sequence := NULL;
        of_code := 0;
        of_subject := assets[i];
        of_winner_id := NULL;
        of_winner_sequence := NULL;
        CASE kinds[i]
        WHEN 1, 2 THEN
            LOOP
                IF locked THEN
                    SELECT * INTO seen FROM asset WHERE id = assets[i] FOR UPDATE;
                ELSE
                    SELECT * INTO seen FROM asset WHERE id = assets[i];
                END IF;
                IF NOT FOUND THEN
                    of_code := 200;
                ELSIF kinds[i] = 1 AND seen.owner IS NOT NULL THEN
                    of_code := 206;
                    of_winner_id := seen.given_by;
                    of_winner_sequence := seen.given_sequence;
                ELSIF kinds[i] = 2 AND seen.owner IS DISTINCT FROM actors[i] THEN
                    of_code := 202;
                ELSIF seen.version <> versions[i] THEN
                    of_code := 201;
                END IF;
                EXIT WHEN of_code <> 0;
                of_sequence := nextval('sequences');
                UPDATE asset
                    SET owner = CASE kinds[i] WHEN 1 THEN actors[i] ELSE others[i] END,
                        revision = revision + 1, given_by = ids[i], given_sequence = of_sequence
                    WHERE id = assets[i] AND revision = seen.revision;
                EXIT WHEN FOUND;
                -- Without a lock: somebody changed it meanwhile. It is looked at again and decided anew.
            END LOOP;
            IF of_code <> 0 THEN
                of_sequence := nextval('sequences');
            END IF;
        WHEN 3 THEN
            of_sequence := nextval('sequences');
            of_subject := nextval('asset_numbers');
            INSERT INTO asset VALUES (of_subject, others[i], 1, 1, ids[i], of_sequence);
        WHEN 4 THEN
            of_sequence := nextval('sequences');
            INSERT INTO account AS held VALUES (others[i], amounts[i])
                ON CONFLICT (id) DO UPDATE SET balance = held.balance + EXCLUDED.balance;
        WHEN 6 THEN
            of_subject := 0;
            FOR leg IN amounts[i] .. amounts[i] + versions[i] - 1 LOOP
                IF leg_assets[leg] <> 0 THEN
                    SELECT * INTO seen FROM asset WHERE id = leg_assets[leg];
                    of_code := CASE
                        WHEN NOT FOUND THEN 200
                        WHEN seen.owner IS DISTINCT FROM givers[leg] THEN 202
                        WHEN seen.version <> leg_versions[leg] THEN 201
                        ELSE 0 END;
                    revisions[leg] := seen.revision;
                ELSIF coalesce((SELECT balance FROM account WHERE id = givers[leg]), 0) <
                    (SELECT sum(leg_amounts[other]) FROM generate_series(amounts[i], amounts[i] + versions[i] - 1) other
                        WHERE givers[other] = givers[leg]) THEN
                    of_code := 300;
                END IF;
                EXIT WHEN of_code <> 0;
            END LOOP;
            of_sequence := nextval('sequences');
            IF of_code = 0 THEN
                FOR leg IN amounts[i] .. amounts[i] + versions[i] - 1 LOOP
                    IF leg_assets[leg] <> 0 THEN
                        UPDATE asset
                            SET owner = takers[leg], revision = revision + 1, given_by = ids[i],
                                given_sequence = of_sequence
                            WHERE id = leg_assets[leg] AND revision = revisions[leg];
                    ELSE
                        UPDATE account SET balance = balance - leg_amounts[leg]
                            WHERE id = givers[leg] AND balance >= leg_amounts[leg];
                    END IF;
                    IF NOT FOUND THEN
                        -- Without locks: somebody was faster. The message is tried again as a whole.
                        RAISE EXCEPTION 'met another exchange' USING ERRCODE = 'serialization_failure';
                    END IF;
                    IF leg_assets[leg] = 0 THEN
                        INSERT INTO account AS held VALUES (takers[leg], leg_amounts[leg])
                            ON CONFLICT (id) DO UPDATE SET balance = held.balance + EXCLUDED.balance;
                    END IF;
                END LOOP;
            END IF;
        WHEN 7 THEN
            of_subject := 0;
            of_sequence := nextval('sequences');
            of_code := 303;
        ELSE
            of_sequence := nextval('sequences');
            of_subject := nextval('collection_numbers');
        END CASE;
        INSERT INTO command
            VALUES (ids[i], of_sequence, of_code, of_subject, of_winner_id, of_winner_sequence, bodies[i]);
        RETURN NEXT;
    END LOOP;
END $$;
