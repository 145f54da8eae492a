package dev.pocketspec.app

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import dev.pocketspec.bundle.BundleSource
import java.io.IOException
import java.io.InputStream

/** A folder that the user chose in the system's file picker; hidden files are passed over. */
class DocumentFolder(private val resolver: ContentResolver, private val tree: Uri) : BundleSource {
    private class Entry(val id: String, val name: String, val bytes: Long)

    private val files: List<Entry> by lazy {
        val found = ArrayList<Entry>()
        collect(DocumentsContract.getTreeDocumentId(tree), "", 0, found)
        found
    }

    override val totalBytes: Long get() = files.sumOf { it.bytes }

    override fun forEachFile(take: (name: String, content: InputStream) -> Unit) {
        for (entry in files) {
            val uri = DocumentsContract.buildDocumentUriUsingTree(tree, entry.id)
            val stream = resolver.openInputStream(uri) ?: throw IOException("${entry.name} cannot be opened")
            stream.use { take(entry.name, it) }
        }
    }

    private fun collect(folder: String, prefix: String, depth: Int, found: MutableList<Entry>) {
        if (depth > MOST_DEPTH) throw IOException("folders are nested more than $MOST_DEPTH deep")
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder)
        val cursor = resolver.query(children, COLUMNS, null, null, null) ?: throw IOException("the folder cannot be read")
        cursor.use {
            while (it.moveToNext()) {
                val (id, name) = it.getString(0) to it.getString(1)
                when {
                    name.startsWith(".") -> Unit
                    it.getString(2) == Document.MIME_TYPE_DIR -> collect(id, "$prefix$name/", depth + 1, found)
                    else -> found.add(Entry(id, prefix + name, if (it.isNull(3)) 0 else it.getLong(3)))
                }
            }
        }
    }

    private companion object {
        const val MOST_DEPTH = 8
        val COLUMNS = arrayOf(
            Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME, Document.COLUMN_MIME_TYPE, Document.COLUMN_SIZE,
        )
    }
}
