package dev.pocketspec.bundle

import org.junit.Rule
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.file.Files
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class BundleFilesTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle: Bundle by lazy { Bundle.read(SmallBundle().writeTo(temporary.root)) }
    private val file get() = bundle.file("model.onnx")

    @Test
    fun `unchanged files are hashed once`() {
        assertTrue(hashed() > 0)
        assertEquals(0, hashed())
        file.setLastModified(file.lastModified() + 5_000)
        assertEquals(1, hashed())
        bundle.deviceFolder.deleteRecursively()
        assertTrue(hashed() > 1)
    }

    @Test
    fun `a file of the same size with another byte is found`() {
        hashed()
        val bytes = file.readBytes()
        bytes[7] = 0x55
        file.writeBytes(bytes)
        file.setLastModified(file.lastModified() + 5_000)
        assertTrue("model.onnx was changed" in refusal())
    }

    @Test
    fun `missing, short and linked files are named`() {
        val bytes = file.readBytes()
        file.delete()
        assertTrue("lacks model.onnx" in refusal())
        file.writeBytes(bytes.copyOf(10))
        assertTrue("10 bytes" in refusal())
        file.delete()
        val elsewhere = File.createTempFile("elsewhere", ".onnx").apply { writeBytes(bytes) }
        Files.createSymbolicLink(file.toPath(), elsewhere.toPath())
        assertTrue("link" in refusal())
        elsewhere.delete()
    }

    @Test
    fun `a record of someone else costs time and nothing more`() {
        for (record in listOf("", "[]", "{\"model.onnx\": 3}", "\u0000")) {
            File(bundle.deviceFolder, "hashes.json").apply { parentFile?.mkdirs() }.writeText(record)
            assertTrue(hashed() > 1)
        }
    }

    @Test
    fun `a folder without a manifest is no bundle`() {
        assertTrue("no bundle" in assertFailsWith<PocketspecException> { Bundle.read(temporary.newFolder()) }.message)
    }

    @Test
    fun `names that no file can have everywhere are refused`() {
        val paths = listOf("", ".", "..", "a/..", "/a", "a//b", "a/", "x".repeat(201))
        val bad = paths + listOf("con", "NUL.txt", "a.", " a", "a:b", "a\\b", "a\u0000", "\u202Ea")
        for (name in bad) assertTrue(FileNames.fault(name) != null, name)
        for (name in listOf("a", "a/b.onnx", ".hidden", "ä.json", "model.onnx.data")) assertEquals(null, FileNames.fault(name))
    }

    /** How many files are hashed now. */
    private fun hashed(): Int {
        var files = 0
        var before = 0L
        BundleFiles(bundle.folder, bundle.manifest).verify { _, done, _ ->
            if (done == before) files++ // told by the hash first, then by the file
            before = done
        }
        return files
    }

    private fun refusal(): String = assertFailsWith<PocketspecException> { hashed() }.message
}
