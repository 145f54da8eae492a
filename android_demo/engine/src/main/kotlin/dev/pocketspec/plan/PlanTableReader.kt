package dev.pocketspec.plan

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleFiles
import dev.pocketspec.bundle.FileEntry
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import java.io.IOException
import java.security.MessageDigest

/** Reads the table that `python -m memory plans` wrote into a bundle. */
class PlanTableReader private constructor(private val data: JsonObject) {
    private val reasons = data.child("reasons")
    private val levels = data.children("levels").map(::level)
    private val processes = data.children("processes").map(::parts)

    private fun table(): PlanTable {
        val columns = data.children("columns").map { column ->
            PlanTable.Column(
                column.int("context", 2..(1 shl 30)),
                column.text("kernels", "native", "portable"),
                column.textOrNull("kv_type"),
                column.children("plans").map(::rung),
            )
        }
        if (columns.any { it.rungs.isEmpty() }) throw JsonException("a column has no plans")
        return PlanTable(data.text("bundle"), columns)
    }

    private fun rung(plan: JsonObject): PlanTable.Rung {
        val draft = plan.child("draft")
        val places = plan.ints("levels", levels.indices)
        if (places.isEmpty()) throw JsonException("a plan has no levels")
        return PlanTable.Rung(
            anonymous = plan.long("anonymous"),
            hot = plan.long("hot"),
            draft = DraftPlan(draft.text("shape", "chain", "tree") == "tree", draft.int("nodes", 0..MOST_NODES)),
            prefillChunk = plan.int("prefill_chunk", 1..MOST_ROWS),
            levels = places.map(levels::get),
            shared = processes[plan.int("process", processes.indices)],
            tokensPerSecond = plan.double("tokens_per_second", 0.0),
            givenUp = plan.childOrNull("given_up")?.let(::givenUp),
        )
    }

    private fun givenUp(data: JsonObject): GivenUp {
        val step = data.text("step")
        return GivenUp(step, data.text("change"), data.long("saved", Long.MIN_VALUE..Long.MAX_VALUE), reasons.text(step))
    }

    private fun level(data: JsonObject): LevelPlan {
        val blocks = data.children("blocks").map(::block).associateBy { it.name }
        return LevelPlan(
            name = data.text("name"),
            role = data.text("role"),
            residence = data.text("residence"),
            kvType = data.text("kv_type"),
            capacity = data.int("capacity", 1..(1 shl 30)),
            maxRows = data.int("max_rows", 1..MOST_ROWS),
            tree = data.boolean("tree"),
            logitsRows = data.int("logits_rows", 1..MOST_ROWS),
            threads = data.int("threads", 1..MOST_THREADS),
            parts = parts(data.child("parts")),
            cache = blocks["cache"] ?: data.fail("blocks", "a list with a block called cache"),
            work = blocks["work"] ?: data.fail("blocks", "a list with a block called work"),
        )
    }

    private fun block(data: JsonObject): Block {
        val bytes = data.long("bytes")
        val buffers = data.children("buffers").map { buffer ->
            Buffer(buffer.text("name"), buffer.int("offset"), buffer.int("bytes"), buffer.int("count", 1..MOST_ROWS), buffer.int("stride"))
        }
        for (buffer in buffers) {
            val end = buffer.offset + (buffer.count - 1L) * buffer.stride + buffer.bytes
            if (end > bytes || buffer.stride < buffer.bytes) throw JsonException("buffer ${buffer.name} leaves its block")
        }
        return Block(data.text("name"), bytes, buffers.associateBy { it.name })
    }

    private fun parts(data: JsonObject): List<Part> = data.names.map { name ->
        val counts = data.list(name).map { it as? Long ?: data.fail(name, "two numbers of bytes") }
        if (counts.size != 2) data.fail(name, "two numbers of bytes")
        Part(name, counts[0], counts[1])
    }

    companion object {
        const val SCHEMA = 2L
        private const val MOST_THREADS = 64
        private const val MOST_NODES = 63
        private const val MOST_ROWS = 1 shl 16
        private const val REMEDY = "write it again (python -m memory plans BUNDLE) and import the bundle once more"

        /** The table of [bundle]; PocketspecException if it has none, or one of another bundle or version. */
        fun read(bundle: Bundle): PlanTable {
            val name = bundle.manifest.name
            if (PlanTable.FILE_NAME !in bundle.manifest.files) {
                throw PocketspecException("$name has no table of plans (${PlanTable.FILE_NAME}); $REMEDY.")
            }
            try {
                return read(bundle.file(PlanTable.FILE_NAME).readText(), keyOf(bundle.manifest.files))
            } catch (error: JsonException) {
                throw PocketspecException("The table of plans of $name cannot be read: ${error.message}; $REMEDY.", error)
            } catch (error: IOException) {
                throw PocketspecException("The table of plans of $name cannot be read (${error.message}); $REMEDY.", error)
            }
        }

        /** The table in [text], which was made for files with this [key]. */
        internal fun read(text: String, key: String): PlanTable {
            val data = Json.parseObject(text, PlanTable.FILE_NAME)
            val schema = data.long("schema", 1..Long.MAX_VALUE)
            if (schema > SCHEMA) {
                throw PocketspecException("The table of plans has schema $schema, and this app reads up to $SCHEMA; update the app.")
            }
            if (schema < SCHEMA) throw PocketspecException("The table of plans is of an older version; $REMEDY.")
            if (data.text("key") != key) {
                throw PocketspecException("The table of plans was made for other files than the bundle has; $REMEDY.")
            }
            return PlanTableReader(data).table()
        }

        /** What a table names its bundle by: SHA-256 over names and hashes of all files but the table itself. */
        internal fun keyOf(files: Map<String, FileEntry>): String {
            val lines = files.filterKeys { it != PlanTable.FILE_NAME }.map { (name, entry) -> "$name ${entry.sha256}\n" }
            val digest = MessageDigest.getInstance("SHA-256")
            digest.update(lines.sorted().joinToString("").toByteArray())
            return BundleFiles.hexadecimal(digest.digest())
        }
    }
}
