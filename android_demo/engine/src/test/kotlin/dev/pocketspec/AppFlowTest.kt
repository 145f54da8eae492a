package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.BundleImport
import dev.pocketspec.bundle.BundleStore
import dev.pocketspec.bundle.FolderSource
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.bundle.SmallBundle
import dev.pocketspec.bundle.ZipSource
import dev.pocketspec.chat.BudgetKeeper
import dev.pocketspec.chat.ChatParts
import dev.pocketspec.chat.ChatPresenter
import dev.pocketspec.chat.ChatState
import dev.pocketspec.chat.ConversationFile
import dev.pocketspec.chat.Phase
import dev.pocketspec.json.Json
import dev.pocketspec.plan.PlanTableReader
import org.junit.After
import org.junit.Rule
import org.junit.Test
import org.junit.experimental.categories.Category
import org.junit.rules.TemporaryFolder
import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.test.fail

/** The app without its screen, whole: the demo bundle is imported, opened, and talked to under budgets that change. */
class AppFlowTest {
    @get:Rule
    val folder = TemporaryFolder()

    private val posted = LinkedBlockingQueue<() -> Unit>()
    private val presenters = ArrayList<ChatPresenter>()
    private val store by lazy { BundleStore(folder.newFolder("bundles")) }

    @Volatile
    private var now = 0L

    private fun demo(): File = TestPlaces.fixture("models/demo")

    private fun presenter(): ChatPresenter {
        val library = File(System.getProperty("pocketspec.kernels").orEmpty())
        val parts = ChatParts(
            engines = { place, budget, progress -> Engine.open(place, budget, EngineParts(library = library), progress) },
            conversation = ConversationFile(File(folder.root, "conversation.json")),
            ui = { posted.add(it) },
            device = { false },
            milliseconds = { now },
            prepare = { store.bundles().firstOrNull() },
        )
        return ChatPresenter(parts).also(presenters::add)
    }

    private fun opened(): ChatPresenter {
        BundleImport(store, RunnableCheck).run(FolderSource(demo())) { _, _, _ -> }
        return presenter().also {
            it.start(BUDGET)
            it.until { state -> state.phase == Phase.READY }
        }
    }

    @Test
    @Category(Slow::class)
    fun `a zip is imported and opened, and answers the same with and without drafts`() {
        val zip = zip(demo())
        val presenter = presenter()
        presenter.start(BUDGET)
        presenter.import { progress ->
            BundleImport(store, RunnableCheck).run(ZipSource { ByteArrayInputStream(zip) }, progress)
        }
        presenter.until { it.phase == Phase.READY && it.plan != null }
        val drafted = presenter.ask("Tell me a story.")
        assertTrue(assertNotNull(drafted.statistics).tokens > 0) // whether it drafts, the costs of this machine decide
        presenter.clear()
        presenter.setSpeculation(false)
        val plain = presenter.ask("Tell me a story.")
        assertEquals(drafted.messages[1].text, plain.messages[1].text)
        assertEquals(0, plain.statistics?.drafted)
    }

    @Test
    @Category(Slow::class)
    fun `a budget that changes in the middle of an answer changes no token`() {
        val presenter = opened()
        val whole = presenter.ask("Tell me a story.").messages[1].text
        presenter.clear()
        presenter.send("Tell me a story.")
        presenter.until { it.statistics != null }
        presenter.trimMemory(BudgetKeeper.RUNNING_CRITICAL)
        val state = presenter.until { it.phase == Phase.READY }
        assertNull(state.error)
        assertEquals(whole, state.messages[1].text)
        val small = presenter.until { it.isShrunk }
        val plan = assertNotNull(small.plan)
        assertEquals(plan.smallestBytes, plan.budgetBytes)
        now += 2 * BudgetKeeper.CALM_MILLISECONDS
        presenter.resume()
        presenter.until { !it.isShrunk }
    }

    @Test
    fun `a budget below the bound is refused before anything is loaded, and may be raised`() {
        BundleImport(store, RunnableCheck).run(FolderSource(demo())) { _, _, _ -> }
        val presenter = presenter()
        presenter.start(1_000_000)
        val refused = presenter.until { it.error != null && it.canRetry }
        assertTrue(assertNotNull(refused.error).contains("bytes"), refused.error)
        presenter.setBudget(BUDGET)
        presenter.retry()
        assertEquals(BUDGET, presenter.until { it.phase == Phase.READY }.plan?.budgetBytes)
    }

    @Test
    fun `a bundle without plans is not kept`() {
        val copy = copyOfDemo()
        val manifest = File(copy, "pocketspec.json")
        manifest.writeText(manifest.readText().replace("\"plans.json\"", "\"plans-of-old.json\""))
        File(copy, "plans.json").renameTo(File(copy, "plans-of-old.json"))
        refusedImport(copy, "plans")
    }

    @Test
    fun `a bundle with a tokenizer of another kind is not kept`() {
        val copy = copyOfDemo()
        val tokenizer = File(copy, "tokenizer.json")
        val old = tokenizer.readBytes()
        tokenizer.writeText("""{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}}""")
        // As its export would have listed it, and the table of its plans.
        val manifest = File(copy, "pocketspec.json")
        val plans = File(copy, "plans.json")
        val oldKey = PlanTableReader.keyOf(Bundle.read(copy).manifest.files)
        list(manifest, old, tokenizer.readBytes())
        val oldPlans = plans.readBytes()
        plans.writeText(plans.readText().replace(oldKey, PlanTableReader.keyOf(Bundle.read(copy).manifest.files)))
        list(manifest, oldPlans, plans.readBytes())
        refusedImport(copy, "the model 'Unigram', which this app does not know (BPE); take a model with another tokenizer")
    }

    /** Lists in [manifest] the file [new] in place of [old]. */
    private fun list(manifest: File, old: ByteArray, new: ByteArray) {
        val entry = { bytes: ByteArray -> """{"bytes":${bytes.size},"sha256":"${SmallBundle.sha256(bytes)}"}""" }
        val text = Json.write(Json.parse(manifest.readText()))
        assertTrue(entry(old) in text)
        manifest.writeText(text.replace(entry(old), entry(new)))
    }

    private fun copyOfDemo(): File = folder.newFolder("copy").also { demo().copyRecursively(it, overwrite = true) }

    private fun refusedImport(source: File, sentence: String) {
        val error = assertFailsWith<PocketspecException> {
            BundleImport(store, RunnableCheck).run(FolderSource(source)) { _, _, _ -> }
        }
        assertTrue(sentence in error.message, error.message)
        assertEquals(emptyList(), store.folder.list().orEmpty().toList())
    }

    private fun ChatPresenter.ask(text: String): ChatState {
        send(text)
        return until { it.phase == Phase.READY }
    }

    private fun ChatPresenter.until(condition: (ChatState) -> Boolean): ChatState {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(180)
        while (!condition(state)) {
            if (System.nanoTime() > end) fail("the state stayed $state")
            posted.poll(5, TimeUnit.MILLISECONDS)?.invoke()
        }
        return state
    }

    private fun zip(source: File): ByteArray {
        val output = ByteArrayOutputStream()
        ZipOutputStream(output).use { zip ->
            zip.setLevel(1)
            FolderSource(source).forEachFile { name, content ->
                zip.putNextEntry(ZipEntry("demo/$name"))
                content.copyTo(zip)
            }
        }
        return output.toByteArray()
    }

    @After
    fun closeAll() = presenters.forEach { it.close() }

    private companion object {
        const val BUDGET = 600_000_000L
    }
}
