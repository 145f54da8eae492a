package dev.pocketspec.bundle

import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class BundleImportTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val store by lazy { BundleStore(folder.newFolder("bundles")) }
    private val silent = Progress { _, _, _ -> }
    private val small = SmallBundle()

    @Test
    fun `a folder comes in whole, without what the manifest does not name`() {
        val source = small.writeTo(folder.newFolder())
        File(source, "notes.txt").writeText("mine")
        File(source, ".device").mkdirs()
        File(source, ".device/hashes.json").writeText("{}")
        val place = import(FolderSource(source))
        assertEquals(File(store.folder, "small"), place)
        assertSame(small, place)
        assertEquals(listOf(place), store.bundles())
    }

    @Test
    fun `a zip comes in, also with a folder around its files and the manifest last`() {
        for (around in listOf("", "demo-int4/")) {
            val zip = SmallBundle.zip(small.files().mapKeys { around + it.key })
            assertSame(small, import(ZipSource { zip.inputStream() }))
        }
    }

    @Test
    fun `a bundle of the same name is replaced`() {
        import(FolderSource(small.writeTo(folder.newFolder())))
        val newer = SmallBundle().apply { contents["model.onnx"] = ByteArray(10) }
        assertSame(newer, import(FolderSource(newer.writeTo(folder.newFolder()))))
        assertEquals(1, store.bundles().size)
    }

    @Test
    fun `names that leave the zip are refused`() {
        val names = listOf("../evil", "/etc/evil", "a/../../evil", "C:/evil", "a\\..\\..\\evil", "a//b", "nul\u0000")
        for (name in names) {
            val files = linkedMapOf(name to ByteArray(1)) + small.files()
            refused("file named", ZipSource { SmallBundle.zip(files).inputStream() })
        }
        assertEquals(listOf("bundles"), folder.root.list().orEmpty().filter { "evil" in it || it == "bundles" })
    }

    @Test
    fun `a changed, short, missing or additional file is named`() {
        val files = small.files()
        val changed = files["model.onnx"]!!.copyOf().apply { this[5] = 99 }
        refused("model.onnx", ZipSource { SmallBundle.zip(files + ("model.onnx" to changed)).inputStream() })
        val short = SmallBundle.zip(files + ("model.onnx" to ByteArray(2)))
        refused("model.onnx has 2 bytes", ZipSource { short.inputStream() })
        refused("lacks tokenizer.json", ZipSource { SmallBundle.zip(files - "tokenizer.json").inputStream() })
        refused(Manifest.FILE_NAME, ZipSource { SmallBundle.zip(files - Manifest.FILE_NAME).inputStream() })
    }

    @Test
    fun `a newer schema is refused with the remedy`() {
        small.schema = 99
        val message = refused("schema 99", FolderSource(small.writeTo(folder.newFolder())))
        assertTrue("update the app" in message, message)
    }

    @Test
    fun `a model whose layers have states is refused as another architecture`() {
        small.schema = 5
        val message = refused("layers with states", FolderSource(small.writeTo(folder.newFolder())))
        assertTrue("another architecture" in message, message)
    }

    @Test
    fun `what the app cannot run is refused before it is among the bundles`() {
        val check = BundleCheck { throw PocketspecException("The tokenizer is a Unigram one; export a BPE model.") }
        val source = FolderSource(small.writeTo(folder.newFolder()))
        val error = assertFailsWith<PocketspecException> { BundleImport(store, check).run(source, silent) }
        assertTrue("Unigram" in error.message)
        assertNothingLeft()
    }

    @Test
    fun `without space nothing is begun, and a disk that fills up leaves nothing`() {
        val source = FolderSource(small.writeTo(folder.newFolder()))
        refused("MiB of storage", source, FakeStorage(free = BundleImport.SPARE + 10))
        val zip = SmallBundle.zip(small.files())
        refused("MiB of storage", ZipSource { zip.inputStream() }, FakeStorage(free = BundleImport.SPARE + 4_000))
        refused("No space left", source, FakeStorage(failsAfter = 3_500))
    }

    @Test
    fun `a source that ends in the middle is refused`() {
        val zip = SmallBundle.zip(small.files())
        refused("cannot be read", ZipSource { zip.copyOf(zip.size / 2).inputStream() })
        refused("cannot be read", ZipSource { "no zip".toByteArray().inputStream() })
        refused("cannot be read", ZipSource { throw IOException("the card was removed") })
        refused("cannot be read", FolderSource(File(folder.root, "nowhere")))
    }

    @Test
    fun `a file twice and too many files are refused`() {
        val source = object : BundleSource {
            override val totalBytes: Long? = null

            override fun forEachFile(take: (name: String, content: InputStream) -> Unit) {
                take("a", ByteArray(1).inputStream())
                take("a", ByteArray(1).inputStream())
            }
        }
        refused("twice", source)
        val many = (0..BundleImport.MOST_FILES).associate { "f$it" to ByteArray(0) }
        refused("more than", ZipSource { SmallBundle.zip(many).inputStream() })
    }

    @Test
    fun `a small zip that becomes large ends at the limit of the storage`() {
        val bomb = SmallBundle.zip(mapOf("model.onnx" to ByteArray(50_000_000)))
        assertTrue(bomb.size < 100_000)
        val storage = FakeStorage(free = BundleImport.SPARE + 1_000_000)
        refused("MiB of storage", ZipSource { bomb.inputStream() }, storage)
        assertTrue(storage.written <= 1_000_000)
    }

    @Test
    fun `progress grows to the total, and cancelling leaves nothing`() {
        val seen = ArrayList<Triple<String, Long, Long>>()
        BundleImport(store, {}).run(FolderSource(small.writeTo(folder.newFolder()))) { stage, done, total ->
            seen.add(Triple(stage, done, total))
        }
        for ((stage, steps) in seen.groupBy { it.first }) {
            assertEquals(steps.map { it.second }.sorted(), steps.map { it.second }, stage)
            assertEquals(steps.last().third, steps.last().second, stage)
        }
        File(store.folder, "small").deleteRecursively()
        for (stop in seen.indices) cancelledAt(stop)
    }

    private fun cancelledAt(step: Int) {
        var count = 0
        assertFailsWith<CancelledException> {
            BundleImport(store, {}).run(FolderSource(small.writeTo(folder.newFolder()))) { _, _, _ ->
                if (count++ == step) throw CancelledException()
            }
        }
        assertNothingLeft()
    }

    @Test
    fun `what a process left that died in the middle is put in order`() {
        val place = import(FolderSource(small.writeTo(folder.newFolder())))
        File(store.folder, ".import-1/half").mkdirs()
        store.clean()
        assertEquals(listOf("small"), store.folder.list()?.toList())
        // It died between the two renamings of a replacement: the old bundle comes back.
        place.renameTo(File(store.folder, ".replaced-small"))
        store.clean()
        assertSame(small, place)
        // It died after them: the old one goes.
        File(store.folder, ".replaced-small").mkdirs()
        store.clean()
        assertEquals(listOf("small"), store.folder.list()?.toList())
    }

    @Test
    fun `an import at any moment of which the process dies leaves the old bundle or the new one`() {
        import(FolderSource(small.writeTo(folder.newFolder())))
        val newer = SmallBundle().apply { contents["model.onnx"] = ByteArray(10) }
        // What lies on the disk at each moment is what the next start finds if the process ends there.
        val moments = ArrayList<File>()
        val keep = { store.folder.copyRecursively(File(folder.root, "moment-${moments.size}").also(moments::add)) }
        BundleImport(store, { keep() }).run(FolderSource(newer.writeTo(folder.newFolder()))) { _, _, _ -> keep() }
        assertTrue(moments.size > newer.files().size)
        for (moment in moments) {
            val begun = BundleStore(moment)
            assertTrue(begun.folder.list().orEmpty().size > 1)
            begun.clean()
            assertEquals(listOf("small"), begun.folder.list().orEmpty().toList())
            assertSame(small, begun.bundles().single())
        }
        assertSame(newer, store.bundles().single())
    }

    @Test
    fun `a name that is no name of a folder becomes one`() {
        val place = import(FolderSource(SmallBundle("../a b/ü?").writeTo(folder.newFolder())))
        assertEquals(store.folder, place.parentFile)
    }

    private fun import(source: BundleSource): File = BundleImport(store, {}).run(source, silent)

    /** The message of a refusal, which names [part]; nothing is left of the import. */
    private fun refused(part: String, source: BundleSource, storage: Storage = Storage): String {
        val error = assertFailsWith<PocketspecException>(part) { BundleImport(store, {}, storage).run(source, silent) }
        assertTrue(part in error.message, error.message)
        assertTrue(error.message.endsWith(".") && '\n' !in error.message, error.message)
        assertNothingLeft()
        return error.message
    }

    private fun assertNothingLeft() = assertEquals(emptyList(), store.folder.list().orEmpty().toList())

    private fun assertSame(expected: SmallBundle, place: File) {
        val found = place.walk().onEnter { !it.name.startsWith(".") }.filter { it.isFile }
            .associate { it.relativeTo(place).invariantSeparatorsPath to it.readBytes() }
        assertEquals(expected.files().keys, found.keys)
        for ((path, bytes) in expected.files()) assertContentEquals(bytes, found[path])
    }

    /** A disk with [free] bytes, whose writing fails after [failsAfter]. */
    private class FakeStorage(private val free: Long = 1L shl 40, private val failsAfter: Long = 1L shl 40) : Storage {
        var written = 0L

        override fun freeBytes(folder: File): Long = free - written

        override fun write(file: File): OutputStream {
            val output = file.outputStream()
            return object : OutputStream() {
                override fun write(byte: Int) = write(byteArrayOf(byte.toByte()), 0, 1)

                override fun write(bytes: ByteArray, from: Int, count: Int) {
                    written += count
                    if (written > failsAfter) throw IOException("No space left on device")
                    output.write(bytes, from, count)
                }

                override fun close() = output.close()
            }
        }
    }
}
