package dev.pocketspec.text

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import org.junit.Assume.assumeTrue
import java.io.File

/** Texts with what Python makes of them, as `python -m tests.android_demo.fixtures` writes them. */
internal object TextFixtures {
    private val folder = File(System.getProperty("pocketspec.root") ?: ".", "android_demo/build/fixtures")

    /** The files in the folder [name] that end in .jsonl; the test is skipped without them. */
    fun files(name: String): List<File> {
        val files = File(folder, name).listFiles { file -> file.name.endsWith(".jsonl") }.orEmpty().sortedBy { it.name }
        assumeTrue("no fixtures: python -m tests.android_demo.fixtures", files.isNotEmpty())
        return files
    }

    /** The objects of which each line of [file] is one. */
    fun lines(file: File): Sequence<JsonObject> =
        file.readLines().asSequence().map { Json.parseObject(it, file.name) }
}
