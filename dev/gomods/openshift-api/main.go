// Reads an object of image.openshift.io as clients written in Go do, and says what one of them, oc, would print.
//
//	openshift-api WEB < imagestreamimport.json
//
// The object is decoded into OpenShift's own types by the library that client-go uses, which ignores unknown fields and
// fails on a wrong type; an image's dockerImageMetadata is decoded by itself, as oc does it. Ends with 1, like
// `oc import-image`, when an import failed, and when something could not be read.
package main

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/openshift/api/image/docker10"
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// What later versions of the types have beside those of this one.
type younger struct {
	Spec struct {
		Images []struct {
			ImportPolicy policy `json:"importPolicy"`
		} `json:"images"`
		Tags []struct {
			ImportPolicy policy `json:"importPolicy"`
		} `json:"tags"`
	} `json:"spec"`
	Status struct {
		Import *struct {
			Spec struct {
				Tags []struct {
					ImportPolicy policy `json:"importPolicy"`
				} `json:"tags"`
			} `json:"spec"`
		} `json:"import"`
		Images     []withManifests `json:"images"`
		Repository *struct {
			Images []withManifests `json:"images"`
		} `json:"repository"`
	} `json:"status"`
	manifests
}

type policy struct {
	ImportMode string `json:"importMode"`
}

type withManifests struct {
	Image *manifests `json:"image"`
}

type manifests struct {
	DockerImageManifests []struct {
		Digest       string `json:"digest"`
		MediaType    string `json:"mediaType"`
		ManifestSize int64  `json:"manifestSize"`
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant"`
	} `json:"dockerImageManifests"`
}

func main() {
	stream := "stream"
	if len(os.Args) > 1 {
		stream = os.Args[1]
	}
	body, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = read(stream, body)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func read(stream string, body []byte) error {
	var kind metav1.TypeMeta
	var more younger
	if err := json.Unmarshal(body, &kind); err != nil {
		return err
	}
	if err := json.Unmarshal(body, &more); err != nil {
		return err
	}
	switch kind.Kind {
	case "ImageStreamImport":
		var found imagev1.ImageStreamImport
		if err := json.Unmarshal(body, &found); err != nil {
			return err
		}
		return printImport(stream, &found, &more)
	case "ImageStream":
		var found imagev1.ImageStream
		if err := json.Unmarshal(body, &found); err != nil {
			return err
		}
		printStream(&found)
	case "ImageStreamList":
		var found imagev1.ImageStreamList
		if err := json.Unmarshal(body, &found); err != nil {
			return err
		}
		for at := range found.Items {
			printStream(&found.Items[at])
		}
	case "Image":
		var found imagev1.Image
		if err := json.Unmarshal(body, &found); err != nil {
			return err
		}
		return printImage(found.Name, &found, &more.manifests)
	default:
		return fmt.Errorf("no type for the kind %q", kind.Kind)
	}
	return nil
}

func printImport(stream string, found *imagev1.ImageStreamImport, more *younger) error {
	failed := false
	if found.Status.Import != nil {
		printStream(found.Status.Import)
	}
	if repository := found.Status.Repository; repository != nil {
		failed = repository.Status.Status == metav1.StatusFailure
		for at, image := range repository.Images {
			printAnswer(stream, "repository tag", &image, more.Status.Repository.Images[at].Image)
		}
		if len(repository.AdditionalTags) > 0 {
			fmt.Printf("Additional Tags: %s\n", strings.Join(repository.AdditionalTags, ", "))
		}
	}
	for at, image := range found.Status.Images {
		failed = failed || image.Status.Status == metav1.StatusFailure
		printAnswer(stream, "tag", &image, more.Status.Images[at].Image)
	}
	if failed {
		return errors.New("imported with errors")
	}
	fmt.Println("imported")
	return nil
}

// Like oc: what cannot be described is an error on stderr, and changes nothing else.
func printAnswer(stream, what string, image *imagev1.ImageImportStatus, more *manifests) {
	if image.Image == nil {
		fmt.Fprintf(os.Stderr, "error: %s %s failed: %s\n", what, image.Tag, image.Status.Message)
		return
	}
	tag := image.Tag
	if tag == "" {
		tag = "latest"
	}
	if err := printImage(stream+":"+tag, image.Image, more); err != nil {
		fmt.Fprintf(os.Stderr, "error: %s %s failed: %v\n", what, image.Tag, err)
	}
}

func printStream(stream *imagev1.ImageStream) {
	fmt.Printf("Stream: %s/%s\n", stream.Namespace, stream.Name)
	if !stream.CreationTimestamp.IsZero() {
		fmt.Printf("Created: %s\n", stream.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z"))
	}
	for _, tag := range stream.Spec.Tags {
		from := "nothing"
		if tag.From != nil {
			from = tag.From.Kind + " " + tag.From.Name
		}
		fmt.Printf("Spec Tag: %s from %s\n", tag.Name, from)
	}
	for _, tag := range stream.Status.Tags {
		for _, condition := range tag.Conditions {
			fmt.Printf("Condition: %s %s=%s %s\n", tag.Tag, condition.Type, condition.Status, condition.Reason)
		}
		for _, item := range tag.Items {
			created := item.Created.UTC().Format("2006-01-02T15:04:05Z")
			fmt.Printf("Status Tag: %s is %s since %s\n", tag.Tag, item.DockerImageReference, created)
		}
	}
}

func printImage(name string, image *imagev1.Image, more *manifests) error {
	var found *docker10.DockerImage
	if len(image.DockerImageMetadata.Raw) > 0 && string(image.DockerImageMetadata.Raw) != "null" {
		found = &docker10.DockerImage{}
		if err := stdjson.Unmarshal(image.DockerImageMetadata.Raw, found); err != nil {
			return err
		}
	}
	if found == nil {
		return errors.New("unable to read image metadata")
	}
	fmt.Printf("Image Name: %s\n", name)
	fmt.Printf("Docker Image: %s\n", image.DockerImageReference)
	fmt.Printf("Name: %s\n", image.Name)
	fmt.Printf("Image Size: %d in %d layers\n", found.Size, len(image.DockerImageLayers))
	for _, layer := range image.DockerImageLayers {
		fmt.Printf("Layer: %s %d %s\n", layer.Name, layer.LayerSize, layer.MediaType)
	}
	if more != nil {
		for _, each := range more.DockerImageManifests {
			fmt.Printf("Manifest: %s/%s %s %d\n", each.OS, each.Architecture, each.Digest, each.ManifestSize)
		}
	}
	if !found.Created.IsZero() {
		fmt.Printf("Image Created: %s\n", found.Created.UTC().Format("2006-01-02T15:04:05Z"))
	}
	fmt.Printf("Author: %s\nArch: %s\n", found.Author, found.Architecture)
	if config := found.Config; config != nil {
		fmt.Printf("Entrypoint: %s\nCommand: %s\n", strings.Join(config.Entrypoint, " "), strings.Join(config.Cmd, " "))
		fmt.Printf("Working Dir: %s\nUser: %s\n", config.WorkingDir, config.User)
		fmt.Printf("Exposes Ports: %s\n", strings.Join(names(config.ExposedPorts), ", "))
		fmt.Printf("Volumes: %s\n", strings.Join(names(config.Volumes), ", "))
		for _, label := range names(config.Labels) {
			fmt.Printf("Docker Label: %s=%s\n", label, config.Labels[label])
		}
		for _, variable := range config.Env {
			fmt.Printf("Environment: %s\n", variable)
		}
	}
	return nil
}

func names[Value any](of map[string]Value) []string {
	found := make([]string, 0, len(of))
	for name := range of {
		found = append(found, name)
	}
	sort.Strings(found)
	return found
}
