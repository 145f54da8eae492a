package dev.pocketspec.app

import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.Intent
import android.os.Bundle
import android.text.SpannableStringBuilder
import dev.pocketspec.bundle.FolderSource
import dev.pocketspec.bundle.ZipSource
import dev.pocketspec.chat.ChatPresenter
import java.io.IOException

/** The screen: shows the presenter's states, and tells it what the user does. It keeps nothing of its own. */
class MainActivity : Activity() {
    private val holder get() = application as PocketspecApplication
    private val presenter: ChatPresenter get() = holder.presenter
    private lateinit var screen: ChatScreen

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.main)
        screen = ChatScreen(this, presenter, PhoneMemory(this).firstBudget(), ::showMenu)
    }

    override fun onStart() {
        super.onStart()
        presenter.attach(screen::show)
        presenter.resume()
    }

    override fun onStop() {
        presenter.attach(null)
        presenter.save()
        super.onStop()
    }

    private fun showMenu() {
        val speculation = if (presenter.state.speculation) R.string.speculation_off else R.string.speculation_on
        val actions = listOf(
            R.string.import_zip to { pick(zipPicker(), PICK_ZIP) },
            R.string.import_folder to { pick(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK_FOLDER) },
            R.string.import_pushed to ::importPushed,
            R.string.show_plan to ::showPlan,
            R.string.answer_again to { presenter.retry() },
            R.string.new_conversation to { presenter.clear() },
            speculation to { presenter.setSpeculation(!presenter.state.speculation) },
        )
        val labels = actions.map { (label, _) -> getString(label) }.toTypedArray()
        AlertDialog.Builder(this).setItems(labels) { _, place -> actions[place].second() }.show()
    }

    private fun zipPicker(): Intent = Intent(Intent.ACTION_OPEN_DOCUMENT)
        .addCategory(Intent.CATEGORY_OPENABLE)
        .setType("*/*")
        .putExtra(Intent.EXTRA_MIME_TYPES, arrayOf("application/zip", "application/octet-stream"))

    private fun pick(intent: Intent, request: Int) {
        try {
            startActivityForResult(intent, request)
        } catch (_: ActivityNotFoundException) {
            tell(getString(R.string.no_picker))
        }
    }

    private fun importPushed() {
        val folder = holder.pushed()
        if (folder == null) tell(getString(R.string.nothing_pushed, packageName)) else holder.import(FolderSource(folder))
    }

    private fun tell(sentence: String) {
        AlertDialog.Builder(this).setMessage(sentence).setPositiveButton(R.string.close, null).show()
    }

    @Deprecated("Its replacement is in androidx.")
    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        val uri = data?.data
        if (result != RESULT_OK || uri == null) return
        val resolver = contentResolver
        when (request) {
            PICK_FOLDER -> holder.import(DocumentFolder(resolver, uri))
            PICK_ZIP -> holder.import(
                ZipSource { resolver.openInputStream(uri) ?: throw IOException("the zip cannot be opened") },
            )
        }
    }

    private fun showPlan() {
        val plan = presenter.state.plan
        val text = SpannableStringBuilder(plan?.let(Texts(this)::plan) ?: getString(R.string.no_plan))
        val legend = screen.legend()
        if (legend.isNotEmpty()) text.append("\n").append(getString(R.string.plan_legend)).append(legend)
        AlertDialog.Builder(this)
            .setTitle(R.string.plan_title)
            .setMessage(text)
            .setPositiveButton(R.string.close, null)
            .show()
    }

    private companion object {
        const val PICK_ZIP = 1
        const val PICK_FOLDER = 2
    }
}
